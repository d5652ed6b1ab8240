//! The table of routes. A pattern is a path with `{name}` for one segment and `{name...}` for one or more: names of
//! images have slashes in them, in the middle of a path.

use std::sync::Arc;

use futures::future::BoxFuture;
use http::Method;

use crate::error::ApiError;
use crate::request::Request;
use crate::response::Response;

/// What answers a route. `C` is what every handler has at hand.
pub(crate) type Handler<C> = fn(Arc<C>, Request) -> BoxFuture<'static, Result<Response, ApiError>>;

/// A line of the table.
pub(crate) struct Route<C> {
    /// Method.
    pub method: Method,
    /// Pattern.
    pub pattern: &'static str,
    /// Handler.
    pub handler: Handler<C>,
}

/// `route!(GET "/info" => module::function)`.
macro_rules! route {
    ($method:ident $pattern:literal => $handler:path) => {
        $crate::router::Route {
            method: http::Method::$method,
            pattern: $pattern,
            handler: |context, request| Box::pin($handler(context, request)),
        }
    };
}
pub(crate) use route;

/// The table. The first line that fits wins.
pub(crate) struct Router<C>(Vec<Route<C>>);

impl<C> Router<C> {
    /// A router over these lines.
    pub(crate) fn new(routes: Vec<Route<C>>) -> Self {
        Self(routes)
    }

    /// The handler of a decoded path, without its version prefix, and the values of the parameters.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Option<(Handler<C>, Vec<String>)> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        self.0.iter().filter(|route| route.method == *method).find_map(|route| {
            let pattern: Vec<&str> = route.pattern[1..].split('/').collect();
            let mut params = Vec::new();
            matches(&pattern, &segments, &mut params).then_some((route.handler, params))
        })
    }
}

fn matches(pattern: &[&str], segments: &[&str], params: &mut Vec<String>) -> bool {
    let Some((head, rest)) = pattern.split_first() else { return segments.is_empty() };
    if head.ends_with("...}") {
        // The longest name that lets the rest of the pattern fit; a pattern has one such parameter at most.
        let Some(taken) = segments.len().checked_sub(rest.len()).filter(|taken| *taken > 0) else { return false };
        let name = segments[..taken].join("/");
        if name.is_empty() {
            return false;
        }
        params.push(name);
        return matches(rest, &segments[taken..], params);
    }
    let Some((segment, following)) = segments.split_first() else { return false };
    if head.starts_with('{') {
        if segment.is_empty() {
            return false;
        }
        params.push((*segment).to_owned());
    } else if head != segment {
        return false;
    }
    matches(rest, following, params)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(pattern: &str, path: &str) -> Option<Vec<String>> {
        let (pattern, path): (Vec<_>, Vec<_>) = (pattern[1..].split('/').collect(), path[1..].split('/').collect());
        let mut params = Vec::new();
        matches(&pattern, &path, &mut params).then_some(params)
    }

    #[test]
    fn one_segment_parameters() {
        assert_eq!(fit("/containers/{id}/json", "/containers/abc/json"), Some(vec!["abc".to_owned()]));
        assert_eq!(fit("/containers/{id}/json", "/containers/a/b/json"), None);
        assert_eq!(fit("/containers/{id}", "/containers/"), None);
        assert_eq!(fit("/info", "/info/more"), None);
    }

    #[test]
    fn names_of_images_have_slashes() {
        let name = |path| fit("/images/{name...}/json", path);
        assert_eq!(name("/images/busybox/json"), Some(vec!["busybox".to_owned()]));
        assert_eq!(name("/images/host:5000/team/app/json"), Some(vec!["host:5000/team/app".to_owned()]));
        assert_eq!(name("/images/json"), None);
        assert_eq!(fit("/images/{name...}", "/images/a/b"), Some(vec!["a/b".to_owned()]));
    }
}
