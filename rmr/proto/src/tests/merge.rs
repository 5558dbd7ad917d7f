// SPDX-License-Identifier: GPL-2.0

use super::*;

const GENERATION: Generation = Generation {
    number: 6,
    nonce: 7,
};

fn merge(marks: &[Mark]) -> Merge<'_> {
    Merge {
        to: Target {
            name: "pool".parse().unwrap(),
            pool: Uuid([0xaa; 16]),
            store: Uuid([1; 16]),
            member: member(1),
            incarnation: Incarnation(5),
        },
        generation: GENERATION,
        marks,
    }
}

fn encode(merge: &Merge<'_>) -> Vec<u8> {
    let mut buf = [0x55; MAX_MERGE_BYTES];
    merge.encode::<Host>(&mut buf).unwrap().to_vec()
}

fn mark(first: u64, chunks: u32, members: u32) -> Mark {
    Mark::new(Run::new(first, chunks), MemberSet::from_bits(members))
}

fn accepts(bytes: &[u8]) -> bool {
    Merge::parse::<Host>(bytes).is_ok()
}

#[test]
fn bytes_on_the_wire() {
    let mut expected = Vec::new();
    expected.extend(b"rmr-msg\0");
    expected.extend(1u16.to_le_bytes());
    expected.extend(21u16.to_le_bytes());
    expected.extend(208u32.to_le_bytes());
    expected.extend([0; 8]);
    expected.extend([0xaa; 16]);
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    for number in [5u64, 6, 7, 0, 0] {
        expected.extend(number.to_le_bytes());
    }
    expected.extend(b"pool");
    expected.extend([0; 60]);
    expected.extend([1; 16]);
    expected.extend([0; 8]);
    for (first, chunks, members) in [(8u64, 9u32, 2u32), (1 << 40, 1, 6)] {
        expected.extend(first.to_le_bytes());
        expected.extend(chunks.to_le_bytes());
        expected.extend(members.to_le_bytes());
    }
    reseal(&mut expected, HEADER_BYTES);
    let marks = [mark(8, 9, 2), mark(1 << 40, 1, 6)];
    assert_eq!(encode(&merge(&marks)), expected);
}

#[test]
fn in_two_parts() {
    let marks = [mark(1, 2, 3)];
    let bytes = encode(&merge(&marks));
    let (header, _) = bytes.split_at(MERGE_HEADER_BYTES);
    assert_eq!(Kind::peek(header), Some(Kind::Merge));
    assert!(!accepts(header));
    assert_eq!(Kind::peek(&header[..HEADER_BYTES - 1]), None);
}

#[test]
fn damaged() {
    let bytes = encode(&merge(&[mark(8, 9, 2), mark(1 << 40, 1, 6)]));
    refuses_bit_flips(&bytes, accepts);
    refuses_truncation(&bytes, HEADER_BYTES, accepts);
}

#[test]
fn refused_fields() {
    let good = encode(&merge(&[mark(8, 9, 2)]));
    let with = |at: usize, new: &[u8]| {
        Merge::parse::<Host>(&forged(&good, HEADER_BYTES, at, new)).unwrap_err()
    };
    assert_eq!(with(10, &[16]), WireError::Kind(16));
    assert_eq!(with(24, &[0; 16]), WireError::Missing("pool UUID"));
    assert_eq!(with(40, &[0]), WireError::Member(0));
    assert_eq!(with(42, &[1]), WireError::Reserved);
    assert_eq!(with(44, &[1]), WireError::Reserved);
    assert_eq!(with(48, &[0]), WireError::Missing("incarnation"));
    assert_eq!(with(56, &[0]), WireError::Missing("generation"));
    assert_eq!(with(72, &[1]), WireError::Reserved);
    assert_eq!(with(80, &[1]), WireError::Reserved);
    assert_eq!(
        with(HEADER_BYTES, &[0]),
        WireError::Name(NameError::Padding)
    );
    assert_eq!(
        with(HEADER_BYTES + 64, &[0; 16]),
        WireError::Missing("store UUID")
    );
    assert_eq!(with(HEADER_BYTES + 80, &[1]), WireError::Reserved);
    assert_eq!(with(HEADER_BYTES + 84, &[1]), WireError::Reserved);
    assert_eq!(
        with(MERGE_HEADER_BYTES + 8, &[0]),
        WireError::Run {
            first: 8,
            chunks: 0
        }
    );
    assert_eq!(
        with(MERGE_HEADER_BYTES, &[0xff; 8]),
        WireError::Run {
            first: u64::MAX,
            chunks: 9
        }
    );
    assert_eq!(
        with(MERGE_HEADER_BYTES + 12, &[0]),
        WireError::Missing("members of a mark")
    );
}

#[test]
fn encoder_refuses() {
    let refused = |merge: &Merge<'_>| {
        let mut buf = [0; MAX_MERGE_BYTES];
        merge.encode::<Host>(&mut buf).unwrap_err()
    };
    assert_eq!(refused(&merge(&[])), WireError::Count(0));
    let marks = [mark(1, 1, 1); MAX_MARKS + 1];
    assert_eq!(refused(&merge(&marks)), WireError::Count(1025));
    assert_eq!(encode(&merge(&marks[1..])).len(), MAX_MERGE_BYTES);
    let nobody = Merge {
        generation: Generation::NONE,
        ..merge(&marks[..1])
    };
    assert_eq!(refused(&nobody), WireError::Missing("generation"));
}

prop_compose! {
    fn any_mark()(first: u64, chunks in 1u32.., members in 1u32..) -> Mark {
        mark(first.min(u64::MAX - u64::from(chunks)), chunks, members)
    }
}

proptest! {
    #[test]
    fn round_trip(
        marks in proptest::collection::vec(any_mark(), 1..40),
        name in any_name(),
        store in any_uuid(),
        generation in any_generation(),
    ) {
        let to = Target { name, store, ..merge(&marks).to };
        let merge = Merge { to, generation, marks: &marks };
        let bytes = encode(&merge);
        prop_assert_eq!(Merge::parse::<Host>(&bytes), Ok(merge));
        prop_assert!(matches!(Message::parse::<Host>(&bytes), Ok(Message::Merge(m)) if m == merge));
        prop_assert_eq!(Control::parse::<Host>(&bytes), Err(WireError::Kind(21)));
        prop_assert_eq!(Peer::parse::<Host>(&bytes), Err(WireError::Kind(21)));
    }

    /// Whatever is accepted is what the encoder would have sent.
    #[test]
    fn accepted_is_canonical(
        marks in proptest::collection::vec(any_mark(), 1..4),
        at in 0usize..MERGE_HEADER_BYTES + 64,
        byte: u8,
    ) {
        let mut bytes = encode(&merge(&marks));
        let at = at % bytes.len();
        bytes[at] = byte;
        reseal(&mut bytes, HEADER_BYTES);
        if let Ok(merge) = Merge::parse::<Host>(&bytes) {
            prop_assert_eq!(encode(&merge), bytes);
        }
    }
}
