// SPDX-License-Identifier: GPL-2.0

use super::*;

/// A key whose MACs tell different messages and keys apart, and are no secret to anybody.
struct Toy(u8);

impl MacKey for Toy {
    fn mac(&self, message: &[u8]) -> [u8; MAC_BYTES] {
        let mut mac = [self.0; MAC_BYTES];
        for (at, byte) in message.iter().enumerate() {
            let place = &mut mac[at % MAC_BYTES];
            *place = place.wrapping_mul(31).wrapping_add(*byte);
        }
        mac
    }

    fn same(a: &[u8; MAC_BYTES], b: &[u8; MAC_BYTES]) -> bool {
        a == b
    }
}

/// Gives away what it is asked for.
struct Mirror;

impl MacKey for Mirror {
    fn mac(&self, message: &[u8]) -> [u8; MAC_BYTES] {
        let mut mac = [0; MAC_BYTES];
        MESSAGE.with(|place| place.replace(message.to_vec()));
        mac[0] = 1;
        mac
    }

    fn same(_: &[u8; MAC_BYTES], _: &[u8; MAC_BYTES]) -> bool {
        true
    }
}

std::thread_local! {
    static MESSAGE: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn said() -> Vec<u8> {
    MESSAGE.with(|place| place.take())
}

const KEY: Toy = Toy(7);
const STORE: Uuid = Uuid([5; 16]);
const ASKER: Nonce = Nonce([1; NONCE_BYTES]);
const NODE: Nonce = Nonce([2; NONCE_BYTES]);

fn challenge() -> Challenge {
    Challenge {
        name: "pool".parse().unwrap(),
        role: Role::Client,
        nonce: ASKER,
    }
}

fn response() -> Response {
    challenge().respond(&KEY, STORE, member(3), NODE)
}

fn proof() -> Proof {
    challenge().prove(&KEY, &response()).unwrap()
}

fn challenge_bytes(challenge: &Challenge) -> Result<Vec<u8>, WireError> {
    let mut buf = [0x55; CHALLENGE_BYTES];
    challenge.encode::<Host>(&mut buf)?;
    Ok(buf.to_vec())
}

fn proof_bytes(proof: &Proof) -> Result<Vec<u8>, WireError> {
    let mut buf = [0x55; PROOF_BYTES];
    proof.encode::<Host>(&mut buf)?;
    Ok(buf.to_vec())
}

fn response_bytes(response: &Response) -> Result<Vec<u8>, WireError> {
    let mut buf = [0x55; RESPONSE_BYTES];
    response.encode::<Host>(&mut buf)?;
    Ok(buf.to_vec())
}

fn is_right(proof: &Proof) -> bool {
    proof.is_right(&KEY, STORE, member(3), NODE)
}

#[test]
fn bytes_on_the_wire() {
    let message = |kind: u16, len: u32, mac: &[u8]| {
        let mut expected = Vec::new();
        expected.extend(b"rmr-msg\0");
        expected.extend(1u16.to_le_bytes());
        expected.extend(kind.to_le_bytes());
        expected.extend(len.to_le_bytes());
        expected.resize(HEADER_BYTES, 0);
        expected.extend(b"pool");
        expected.extend([0; 60]);
        expected.extend([2, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([1; 32]);
        expected.extend(mac);
        reseal(&mut expected, HEADER_BYTES);
        expected
    };
    let peer = Challenge {
        role: Role::Peer,
        ..challenge()
    };
    assert_eq!(challenge_bytes(&peer).unwrap(), message(23, 192, &[]));
    let proof = Proof {
        name: peer.name,
        role: peer.role,
        nonce: peer.nonce,
        mac: Mac([9; MAC_BYTES]),
    };
    assert_eq!(proof_bytes(&proof).unwrap(), message(24, 224, &[9; 32]));

    let mut expected = Vec::new();
    expected.extend(b"rmr-rep\0");
    expected.extend(1u16.to_le_bytes());
    expected.extend(23u16.to_le_bytes());
    expected.extend(112u32.to_le_bytes());
    expected.extend([0; 8]);
    expected.extend([5; 16]);
    expected.extend([3, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([2; 32]);
    expected.extend([8; 32]);
    reseal(&mut expected, 24);
    let response = Response {
        store: STORE,
        member: member(3),
        nonce: NODE,
        mac: Mac([8; MAC_BYTES]),
    };
    assert_eq!(response_bytes(&response).unwrap(), expected);
}

#[test]
fn what_is_proved() {
    let transcript = |side: u8| {
        let mut expected = Vec::new();
        expected.extend(b"RMR pool authentication 1");
        expected.extend([0; 7]);
        expected.extend([side, 0, 1, 0, 3, 0, 0, 0]);
        expected.extend([5; 16]);
        expected.extend(b"pool");
        expected.extend([0; 60]);
        expected.extend([1; 32]);
        expected.extend([2; 32]);
        assert_eq!(expected.len(), TRANSCRIPT_BYTES);
        expected
    };
    let response = challenge().respond(&Mirror, STORE, member(3), NODE);
    assert_eq!(said(), transcript(1));
    let proof = challenge().prove(&Mirror, &response).unwrap();
    assert_eq!(said(), transcript(2));
    assert!(proof.is_right(&Mirror, STORE, member(3), NODE));
    assert_eq!(said(), transcript(2));
}

#[test]
fn handshake() {
    let response = Response::parse::<Host>(&response_bytes(&response()).unwrap()).unwrap();
    assert_eq!((response.store, response.member), (STORE, member(3)));
    let proof = challenge().prove(&KEY, &response).unwrap();
    let proof = Proof::parse::<Host>(&proof_bytes(&proof).unwrap()).unwrap();
    assert_eq!(
        (proof.name, proof.role, proof.nonce),
        (challenge().name, Role::Client, ASKER)
    );
    assert!(is_right(&proof));
}

#[test]
fn another_secret() {
    // The member's, the asker's.
    assert!(challenge().prove(&Toy(8), &response()).is_none());
    let other = challenge().respond(&Toy(8), STORE, member(3), NODE);
    assert!(challenge().prove(&KEY, &other).is_none());
    let proof = challenge().prove(&Toy(8), &other).unwrap();
    assert!(!is_right(&proof));
}

/// What one side has proved is worth nothing in any other place.
#[test]
fn nothing_is_good_elsewhere() {
    let name = "loop".parse().unwrap();
    let nonce = Nonce([3; NONCE_BYTES]);
    let role = Role::Peer;
    // What the member answers, to who asked for something else.
    let answer = response();
    for other in [
        Challenge {
            name,
            ..challenge()
        },
        Challenge {
            role,
            ..challenge()
        },
        Challenge {
            nonce,
            ..challenge()
        },
    ] {
        assert!(other.prove(&KEY, &answer).is_none());
    }
    // And from who says to be another one.
    for other in [
        Response {
            store: Uuid([6; 16]),
            ..answer
        },
        Response {
            member: member(4),
            ..answer
        },
        Response { nonce, ..answer },
        Response {
            mac: proof().mac,
            ..answer
        },
    ] {
        assert!(challenge().prove(&KEY, &other).is_none());
    }
    // What the asker says, for another pool, role, over another connection, to another member; and the member's own words.
    for other in [
        Proof { name, ..proof() },
        Proof { role, ..proof() },
        Proof { nonce, ..proof() },
        Proof {
            mac: answer.mac,
            ..proof()
        },
    ] {
        assert!(!is_right(&other));
    }
    assert!(!proof().is_right(&KEY, Uuid([6; 16]), member(3), NODE));
    assert!(!proof().is_right(&KEY, STORE, member(4), NODE));
    assert!(!proof().is_right(&KEY, STORE, member(3), nonce));
}

#[test]
fn damaged() {
    let bytes = challenge_bytes(&challenge()).unwrap();
    let accepts = |bytes: &[u8]| Challenge::parse::<Host>(bytes).is_ok();
    refuses_bit_flips(&bytes, accepts);
    refuses_truncation(&bytes, HEADER_BYTES, accepts);
    let bytes = proof_bytes(&proof()).unwrap();
    let accepts = |bytes: &[u8]| Proof::parse::<Host>(bytes).is_ok();
    refuses_bit_flips(&bytes, accepts);
    refuses_truncation(&bytes, HEADER_BYTES, accepts);
    let bytes = response_bytes(&response()).unwrap();
    let accepts = |bytes: &[u8]| Response::parse::<Host>(bytes).is_ok();
    refuses_bit_flips(&bytes, accepts);
    refuses_truncation(&bytes, 24, accepts);
}

#[test]
fn forged_fields() {
    const ROLE: usize = HEADER_BYTES + 64;
    let challenge = challenge_bytes(&challenge()).unwrap();
    let proof = proof_bytes(&proof()).unwrap();
    let why = |at: usize, new: &[u8]| {
        let bytes = forged(&challenge, HEADER_BYTES, at, new);
        let why = Challenge::parse::<Host>(&bytes).err();
        let bytes = forged(&proof, HEADER_BYTES, at, new);
        assert_eq!(Proof::parse::<Host>(&bytes).err(), why);
        why
    };
    assert_eq!(why(ROLE, &[2]), None);
    for role in [0u16, 3, 0x101, u16::MAX] {
        assert_eq!(why(ROLE, &role.to_le_bytes()), Some(WireError::Role(role)));
    }
    for at in ROLE + 2..ROLE + 8 {
        assert_eq!(why(at, &[1]), Some(WireError::Reserved), "{at}");
    }
    assert_eq!(why(ROLE + 8, &[0; 32]), Some(WireError::Missing("nonce")));
    let mut last = [0; NONCE_BYTES];
    last[NONCE_BYTES - 1] = 1;
    assert_eq!(why(ROLE + 8, &last), None);
    // Of the header only what all messages have.
    for at in [24, 40, 42, 44, 48, 56, 64, 72, 80] {
        assert_eq!(why(at, &[1]), Some(WireError::Reserved), "{at}");
    }
    assert!(matches!(why(HEADER_BYTES, &[0]), Some(WireError::Name(_))));
    assert_eq!(why(10, &22u16.to_le_bytes()), Some(WireError::Kind(22)));
    // One is not the other, nor as long.
    assert_eq!(
        Challenge::parse::<Host>(&proof).err(),
        Some(WireError::Kind(24))
    );
    let long = forged(&proof, HEADER_BYTES, 10, &23u16.to_le_bytes());
    let length = WireError::Length {
        said: 224,
        right: 192,
    };
    assert_eq!(Challenge::parse::<Host>(&long).err(), Some(length));
    let short = forged(&challenge, HEADER_BYTES, 10, &24u16.to_le_bytes());
    let length = WireError::Length {
        said: 192,
        right: 224,
    };
    assert_eq!(Proof::parse::<Host>(&short).err(), Some(length));

    let good = response_bytes(&response()).unwrap();
    let why = |at: usize, new: &[u8]| {
        let bytes = forged(&good, 24, at, new);
        Response::parse::<Host>(&bytes).err()
    };
    assert_eq!(why(24, &[0; 16]), Some(WireError::Missing("store UUID")));
    for id in [0u16, 33, 0x103, u16::MAX] {
        assert_eq!(why(40, &id.to_le_bytes()), Some(WireError::Member(id)));
    }
    for at in 42..48 {
        assert_eq!(why(at, &[1]), Some(WireError::Reserved), "{at}");
    }
    assert_eq!(why(48, &[0; 32]), Some(WireError::Missing("nonce")));
    assert_eq!(why(10, &24u16.to_le_bytes()), Some(WireError::Kind(24)));
    let status = Status::NoSecret.wire();
    assert_eq!(
        why(20, &status.to_le_bytes()),
        Some(WireError::Status(status))
    );
    // Nothing of a bare reply is taken for one.
    let mut buf = [0; REPLY_BYTES];
    let bare = Reply::bare(Kind::Challenge, Status::Ok);
    let bare = bare.encode::<Host>(&mut buf).unwrap();
    let length = WireError::Length {
        said: 24,
        right: 112,
    };
    assert_eq!(Response::parse::<Host>(bare).err(), Some(length));
}

#[test]
fn encoder_refuses() {
    let nonce = Nonce([0; NONCE_BYTES]);
    let missing = WireError::Missing("nonce");
    let nameless = Challenge {
        nonce,
        ..challenge()
    };
    assert_eq!(challenge_bytes(&nameless), Err(missing));
    assert_eq!(proof_bytes(&Proof { nonce, ..proof() }), Err(missing));
    let answer = Response {
        nonce,
        ..response()
    };
    assert_eq!(response_bytes(&answer), Err(missing));
    let answer = Response {
        store: Uuid::NIL,
        ..response()
    };
    assert_eq!(
        response_bytes(&answer),
        Err(WireError::Missing("store UUID"))
    );
}

/// Nonces and MACs do not get into logs by accident.
#[test]
fn nothing_is_printed() {
    let text = std::format!("{:?} {:?} {:?}", challenge(), response(), proof());
    assert!(!text.contains('['), "{text}");
    assert_eq!(text.matches("nonce: Nonce").count(), 3, "{text}");
    assert_eq!(text.matches("mac: Mac").count(), 2, "{text}");
}

prop_compose! {
    fn any_challenge()(name in any_name(), peer: bool, mut nonce: [u8; 32], first in 1u8..) -> Challenge {
        nonce[0] = first;
        let role = if peer { Role::Peer } else { Role::Client };
        Challenge { name, role, nonce: Nonce(nonce) }
    }
}

proptest! {
    #[test]
    fn any(
        challenge in any_challenge(),
        store in any_uuid(),
        id in any_member(),
        mut nonce: [u8; 32],
        first in 1u8..,
        key: u8,
    ) {
        nonce[0] = first;
        let bytes = challenge_bytes(&challenge).unwrap();
        let heard = Challenge::parse::<Host>(&bytes).unwrap();
        prop_assert_eq!(heard, challenge);
        prop_assert!(matches!(Message::parse::<Host>(&bytes), Ok(Message::Challenge(_))));
        let response = heard.respond(&Toy(key), store, id, Nonce(nonce));
        let heard = Response::parse::<Host>(&response_bytes(&response).unwrap()).unwrap();
        prop_assert_eq!(response_bytes(&heard), response_bytes(&response));
        let proof = challenge.prove(&Toy(key), &heard).unwrap();
        let bytes = proof_bytes(&proof).unwrap();
        prop_assert!(matches!(Message::parse::<Host>(&bytes), Ok(Message::Proof(_))));
        let heard = Proof::parse::<Host>(&bytes).unwrap();
        prop_assert!(heard.is_right(&Toy(key), store, id, Nonce(nonce)));
        prop_assert!(!heard.is_right(&Toy(!key), store, id, Nonce(nonce)));
    }
}
