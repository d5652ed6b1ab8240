//! Ties the parts together: images and volumes learn who uses them, and their events reach the event bus.

use std::sync::{Arc, Weak};

use super::Inner;
use crate::container::instance::Container;
use crate::container::registry::Registry;
use crate::events::Events;
use crate::image::{Digest, ImageEvent, ImageObserver, ImageUser, ImageUsers};
use crate::volume::VolumeUsers;

/// Tells images and volumes who the containers are.
pub(super) fn install(inner: &Arc<Inner>) {
    let users = Arc::new(Users(Arc::downgrade(&inner.containers)));
    inner.images.set_users(Arc::clone(&users) as Arc<dyn ImageUsers>);
    inner.images.set_observer(Arc::new(Observer(inner.events.clone())));
    inner.volumes.set_users(users);
}

/// Weak: the stores outlive no engine, but must not keep its containers.
struct Users(Weak<Registry<Container>>);

impl Users {
    fn all(&self) -> Vec<Arc<Container>> {
        self.0.upgrade().map(|registry| registry.all()).unwrap_or_default()
    }
}

impl ImageUsers for Users {
    fn users(&self, image: &Digest) -> Vec<ImageUser> {
        let mut users = Vec::new();
        for container in self.all() {
            let record = container.record();
            let mounted = record.mounts.iter().any(|mount| mount.image == Some(*image));
            if record.image == *image || mounted {
                let running = record.state.phase.is_running();
                users.push(ImageUser { container_id: record.id.clone(), running });
            }
        }
        users
    }
}

impl VolumeUsers for Users {
    fn users(&self, volume: &str) -> Vec<String> {
        let all = self.all();
        let uses = |container: &&Arc<Container>| container.record().mounts.iter().any(|mount| mount.volume == volume);
        all.iter().filter(uses).map(|container| container.id.clone()).collect()
    }
}

struct Observer(Events);

impl ImageObserver for Observer {
    fn image_event(&self, event: ImageEvent) {
        self.0.publish("image", event.action, &event.id, event.attributes);
    }
}
