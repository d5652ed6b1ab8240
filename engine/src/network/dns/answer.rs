//! Answers to queries. Pure: what the names mean and where the turn of addresses starts are arguments.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zone::View;

/// Answers go stale quickly: tasks come and go.
const TTL_SECONDS: u32 = 5;
/// What fits a datagram if the client does not say otherwise.
const PLAIN_DATAGRAM: u16 = 512;
/// The largest datagram that the server sends and says it takes.
const LARGEST_DATAGRAM: u16 = 4096;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram: the answer must fit one.
    Datagram,
    /// In a stream.
    Stream,
}

/// What to do with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Send this.
    Answer(Vec<u8>),
    /// Ask others, and if they fail, send this.
    Forward(Vec<u8>),
    /// Nothing: it is no query.
    Ignore,
}

/// Decides about a query.
pub fn answer(bytes: &[u8], view: &View, rotation: u64, transport: Transport) -> Outcome {
    let request = match Message::from_vec(bytes) {
        Ok(request) if request.metadata.message_type == MessageType::Query => request,
        Ok(_) => return Outcome::Ignore,
        Err(_) => return malformed(bytes),
    };
    let reply = |code| respond(&request, code, Vec::new(), transport);
    if request.metadata.op_code != OpCode::Query {
        return Outcome::Answer(reply(ResponseCode::NotImp));
    }
    let [query] = request.queries.as_slice() else { return Outcome::Answer(reply(ResponseCode::FormErr)) };
    if let Some(records) = own_records(query, view, rotation) {
        return Outcome::Answer(respond(&request, ResponseCode::NoError, records, transport));
    }
    let failure = reply(ResponseCode::ServFail);
    if view.forward { Outcome::Forward(failure) } else { Outcome::Answer(failure) }
}

/// The records of a name that is ours, maybe none; `None` when it is not ours.
fn own_records(query: &Query, view: &View, rotation: u64) -> Option<Vec<Record>> {
    if query.query_class != DNSClass::IN {
        return None;
    }
    let name = query.name.to_ascii().to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    if query.query_type == RecordType::PTR {
        let owner = view.owner(reverse(&query.name)?)?;
        let target = Name::from_ascii(format!("{owner}.")).ok()?;
        return Some(vec![Record::from_rdata(query.name.clone(), TTL_SECONDS, RData::PTR(PTR(target)))]);
    }
    let mut addrs = view.resolve(name)?;
    if !matches!(query.query_type, RecordType::A | RecordType::ANY) {
        // The name is ours but has no such records; to ask others would end in "no such name".
        return Some(Vec::new());
    }
    if !addrs.is_empty() {
        let start = usize::try_from(rotation % addrs.len() as u64).unwrap_or(0);
        addrs.rotate_left(start);
    }
    let record = |addr| Record::from_rdata(query.name.clone(), TTL_SECONDS, RData::A(A(addr)));
    Some(addrs.into_iter().map(record).collect())
}

fn reverse(name: &Name) -> Option<Ipv4Addr> {
    match name.parse_arpa_name().ok()?.addr() {
        IpAddr::V4(addr) if name.num_labels() == 6 => Some(addr),
        _ => None,
    }
}

fn respond(request: &Message, code: ResponseCode, answers: Vec<Record>, transport: Transport) -> Vec<u8> {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata = Metadata::response_from_request(&request.metadata);
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response.queries = request.queries.clone();
    response.answers = answers;
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LARGEST_DATAGRAM);
        response.edns = Some(edns);
    }
    let limit = match transport {
        Transport::Stream => usize::from(u16::MAX),
        Transport::Datagram => {
            let said = request.edns.as_ref().map_or(PLAIN_DATAGRAM, Edns::max_payload);
            usize::from(said.clamp(PLAIN_DATAGRAM, LARGEST_DATAGRAM))
        }
    };
    fit(response, limit)
}

/// Encodes; what does not fit is left out, and the client is told to ask over a stream.
fn fit(mut response: Message, limit: usize) -> Vec<u8> {
    let mut bytes = response.to_vec().unwrap_or_default();
    while bytes.len() > limit && !response.answers.is_empty() {
        response.metadata.truncation = true;
        // Address records are 16 bytes each when their name is compressed.
        let surplus = (bytes.len() - limit).div_ceil(16).min(response.answers.len());
        response.answers.truncate(response.answers.len() - surplus);
        bytes = response.to_vec().unwrap_or_default();
    }
    bytes
}

fn malformed(bytes: &[u8]) -> Outcome {
    let Some([high, low, flags]) = bytes.first_chunk::<3>() else { return Outcome::Ignore };
    if flags & 0x80 != 0 {
        return Outcome::Ignore;
    }
    let id = u16::from_be_bytes([*high, *low]);
    let response = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    Outcome::Answer(response.to_vec().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arc_swap::ArcSwap;

    use super::*;
    use crate::network::dns::zone::Zone;

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 1, last)
    }

    fn view(forward: bool) -> View {
        let mut zone = Zone::new("Lan");
        zone.add("web", ip(2));
        zone.own(ip(2), "web");
        (1..=100).for_each(|last| zone.add("tasks.web", ip(last)));
        zone.announce("lonely");
        let mut other = Zone::new("wan");
        other.add("web", Ipv4Addr::new(10, 0, 2, 2));
        other.add("my_db.1.x", ip(200));
        View {
            zones: vec![Arc::new(ArcSwap::from_pointee(zone)), Arc::new(ArcSwap::from_pointee(other))],
            forward,
            ..View::default()
        }
    }

    fn query(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(77, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn ask(message: &Message, rotation: u64, transport: Transport) -> Message {
        match answer(&message.to_vec().unwrap(), &view(true), rotation, transport) {
            Outcome::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn addrs(message: &Message) -> Vec<Ipv4Addr> {
        let addr = |record: &Record| match record.data {
            RData::A(A(addr)) => addr,
            ref other => panic!("{other:?}"),
        };
        message.answers.iter().map(addr).collect()
    }

    #[test]
    fn names_resolve_in_any_case_with_and_without_the_network() {
        for name in ["web.", "WEB.", "web.lan.", "Web.LAN."] {
            let response = ask(&query(name, RecordType::A), 0, Transport::Datagram);
            assert_eq!(addrs(&response), [ip(2)], "{name}");
            assert_eq!((response.metadata.id, response.metadata.recursion_available), (77, true));
        }
        assert_eq!(
            addrs(&ask(&query("web.wan.", RecordType::A), 0, Transport::Datagram)),
            [Ipv4Addr::new(10, 0, 2, 2)]
        );
        assert_eq!(addrs(&ask(&query("my_db.1.x.", RecordType::A), 0, Transport::Datagram)), [ip(200)]);
    }

    #[test]
    fn other_records_of_our_names_are_empty_not_missing() {
        for kind in [RecordType::AAAA, RecordType::MX, RecordType::TXT] {
            let response = ask(&query("web.", kind), 0, Transport::Datagram);
            assert_eq!(response.metadata.response_code, ResponseCode::NoError);
            assert!(response.answers.is_empty());
        }
        let response = ask(&query("lonely.", RecordType::A), 0, Transport::Datagram);
        assert_eq!((response.metadata.response_code, response.answers.len()), (ResponseCode::NoError, 0));
    }

    #[test]
    fn addresses_lead_back_to_names() {
        let response = ask(&query("2.1.0.10.in-addr.arpa.", RecordType::PTR), 0, Transport::Datagram);
        let RData::PTR(PTR(name)) = &response.answers[0].data else { panic!("{response:?}") };
        assert_eq!(name.to_ascii(), "web.Lan.");
        let unknown = query("9.9.0.10.in-addr.arpa.", RecordType::PTR).to_vec().unwrap();
        assert!(matches!(answer(&unknown, &view(true), 0, Transport::Datagram), Outcome::Forward(_)));
    }

    #[test]
    fn every_task_comes_first_at_some_turn_and_none_is_lost() {
        let all: Vec<_> = (1..=100).map(ip).collect();
        for rotation in [0, 1, 57, 99, u64::MAX] {
            let mut got = addrs(&ask(&query("tasks.web.", RecordType::A), rotation, Transport::Stream));
            assert_eq!(got[0], all[usize::try_from(rotation % 100).unwrap()]);
            got.sort();
            assert_eq!(got, all);
        }
    }

    #[test]
    fn datagrams_are_cut_to_what_the_client_takes() {
        let mut message = query("tasks.web.", RecordType::A);
        let response = ask(&message, 0, Transport::Datagram);
        assert!(response.metadata.truncation && response.to_vec().unwrap().len() <= 512);
        assert!(response.answers.len() > 20);
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        message.edns = Some(edns);
        let larger = ask(&message, 0, Transport::Datagram);
        assert!(larger.metadata.truncation && larger.answers.len() > 60 && larger.edns.is_some());
        assert!(!ask(&message, 0, Transport::Stream).metadata.truncation);
    }

    #[test]
    fn other_names_are_forwarded_or_fail() {
        let bytes = query("example.com.", RecordType::A).to_vec().unwrap();
        assert!(matches!(answer(&bytes, &view(true), 0, Transport::Datagram), Outcome::Forward(_)));
        let Outcome::Answer(bytes) = answer(&bytes, &view(false), 0, Transport::Datagram) else { panic!("forwarded") };
        assert_eq!(Message::from_vec(&bytes).unwrap().metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn nonsense_is_answered_as_such_or_ignored() {
        assert_eq!(answer(&[], &view(true), 0, Transport::Datagram), Outcome::Ignore);
        assert_eq!(answer(&[0, 1, 0x80, 0, 9], &view(true), 0, Transport::Datagram), Outcome::Ignore);
        let mut noise = query("web.", RecordType::A).to_vec().unwrap();
        noise.truncate(15);
        let Outcome::Answer(bytes) = answer(&noise, &view(true), 0, Transport::Datagram) else { panic!("no answer") };
        assert_eq!(Message::from_vec(&bytes).unwrap().metadata.response_code, ResponseCode::FormErr);
        let mut response = query("web.", RecordType::A);
        response.metadata.message_type = MessageType::Response;
        let bytes = response.to_vec().unwrap();
        assert_eq!(answer(&bytes, &view(true), 0, Transport::Datagram), Outcome::Ignore);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = answer(&bytes, &view(true), 3, Transport::Datagram);
        }
    }
}
