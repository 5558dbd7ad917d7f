// SPDX-License-Identifier: GPL-2.0

use super::*;

const FRAME: usize = 64;
const STORE: Uuid = Uuid([7; 16]);
const AT: [Place; 2] = [
    Place {
        offset: 8192,
        copy: 0,
    },
    Place {
        offset: 1 << 30,
        copy: 1,
    },
];

prop_compose! {
    fn any_record()(
        incarnation: u64,
        promised in prop_oneof![Just(Generation::NONE), any_generation()],
        installed in proptest::option::of(any_config()),
        suspect_all: bool,
        unreadable: bool,
        bitmaps: u32,
        all_dirty: u32,
    ) -> EpochRecord {
        let bitmaps = MemberSet::from_bits(bitmaps);
        EpochRecord {
            incarnation: Incarnation(incarnation),
            promised,
            installed,
            suspect_all,
            unreadable,
            bitmaps,
            all_dirty: MemberSet::from_bits(all_dirty).minus(bitmaps),
        }
    }
}

fn encode(record: &EpochRecord, sequence: u64, at: Place) -> [u8; RECORD_BYTES] {
    let mut buf = [0x55; RECORD_BYTES];
    record
        .encode::<Host>(STORE, sequence, at, &mut buf)
        .unwrap();
    buf
}

fn parse(at: Place, bytes: &[u8]) -> Result<Versioned<EpochRecord>, RecordError> {
    EpochRecord::parse::<Host>(STORE, at, bytes)
}

fn sample(incarnation: u64) -> EpochRecord {
    let generation = Generation {
        number: 4,
        nonce: 5,
    };
    EpochRecord {
        incarnation: Incarnation(incarnation),
        promised: generation,
        installed: None,
        suspect_all: true,
        unreadable: true,
        bitmaps: MemberSet::from_bits(2),
        all_dirty: MemberSet::from_bits(4),
    }
}

#[test]
fn bytes_on_disk() {
    let mut expected = Vec::new();
    expected.extend(b"rmr-disk");
    expected.extend([2, 0, 1, 0]);
    expected.extend(4096u32.to_le_bytes());
    expected.extend([0; 4]);
    expected.extend([1, 0, 0, 0]);
    expected.extend([7; 16]);
    for number in [1u64 << 30, 11, 0, 3, 4, 5] {
        expected.extend(number.to_le_bytes());
    }
    for number in [3u32, 2, 4] {
        expected.extend(number.to_le_bytes());
    }
    expected.resize(RECORD_BYTES, 0);
    reseal(&mut expected, FRAME);
    assert_eq!(encode(&sample(3), 11, AT[1])[..], expected);
}

#[test]
fn damaged() {
    let bytes = encode(&sample(1), 1, AT[0]);
    let accepts = |bytes: &[u8]| parse(AT[0], bytes).is_ok();
    refuses_bit_flips(&bytes, accepts);
    for len in 0..RECORD_BYTES {
        assert_eq!(parse(AT[0], &bytes[..len]), Err(RecordError::Length(len)));
    }
    // Torn: the begin of one version, the rest of another.
    let config = Config {
        generation: Generation {
            number: 4,
            nonce: 5,
        },
        epoch: Epoch(1),
        in_sync: MemberSet::only(member(1)),
        catching_up: MemberSet::EMPTY,
        members: core::array::from_fn(|i| Some(Uuid([i as u8 + 1; 16]))),
        incarnations: [Incarnation(1); MAX_MEMBERS],
        persisted: [Epoch::NONE; MAX_MEMBERS],
        clean: false,
        history: Uuid([1; 16]),
        forked_from: None,
        quorum: Quorum::Off,
        maintenance: MemberSet::EMPTY,
    };
    let newer = encode(
        &EpochRecord {
            installed: Some(config),
            ..sample(1)
        },
        2,
        AT[0],
    );
    let mut torn = newer;
    torn[512..].copy_from_slice(&bytes[512..]);
    assert_eq!(parse(AT[0], &torn), Err(RecordError::Checksum));
}

#[test]
fn refused_fields() {
    let good = encode(&sample(1), 1, AT[0]);
    let with = |at: usize, new: &[u8]| parse(AT[0], &forged(&good, FRAME, at, new)).unwrap_err();
    assert_eq!(parse(AT[0], &[0; RECORD_BYTES]), Err(RecordError::Blank));
    assert_eq!(parse(AT[0], &[1; RECORD_BYTES]), Err(RecordError::Magic));
    assert_eq!(
        parse(AT[1], &good),
        Err(RecordError::Place {
            read: AT[1],
            said: AT[0]
        })
    );
    let other = Uuid([8; 16]);
    let mismatch = RecordError::Store {
        expected: other,
        found: STORE,
    };
    assert_eq!(
        EpochRecord::parse::<Host>(other, AT[0], &good),
        Err(mismatch)
    );
    let kind = RecordError::Kind {
        found: 2,
        expected: RecordKind::Superblock,
    };
    assert_eq!(
        Superblock::parse::<Host>(DeviceRole::Data, AT[0], &good),
        Err(kind)
    );
    assert_eq!(
        with(8, &[1]),
        RecordError::Kind {
            found: 1,
            expected: RecordKind::Epoch
        }
    );
    assert_eq!(with(10, &[2]), RecordError::Format(2));
    assert_eq!(with(12, &[1]), RecordError::Field("length"));
    let second = Place { copy: 1, ..AT[0] };
    assert_eq!(
        with(20, &[1]),
        RecordError::Place {
            read: AT[0],
            said: second
        }
    );
    assert_eq!(with(22, &[1]), RecordError::Reserved);
    assert_eq!(with(24, &[0; 16]), RecordError::Field("store UUID"));
    assert_eq!(with(56, &[1]), RecordError::Reserved);
    assert_eq!(with(FRAME + 24, &[4]), RecordError::Reserved);
    assert_eq!(with(FRAME + 36, &[1]), RecordError::Reserved);
    assert_eq!(with(FRAME + 28, &[4]), RecordError::Field("set of bitmaps"));
    assert_eq!(
        with(FRAME + 40, &[1]),
        RecordError::Config(ConfigError::NotEmpty)
    );
    assert_eq!(with(FRAME + 1144, &[1]), RecordError::Reserved);
    assert_eq!(with(RECORD_BYTES - 1, &[1]), RecordError::Reserved);
}

#[test]
fn encoder_refuses() {
    let refused = |store, copy| {
        let at = Place { copy, ..AT[0] };
        sample(1)
            .encode::<Host>(store, 1, at, &mut [0; RECORD_BYTES])
            .unwrap_err()
    };
    assert_eq!(refused(Uuid::NIL, 0), RecordError::Field("store UUID"));
    assert_eq!(refused(STORE, 2), RecordError::Field("copy number"));
}

/// What can have happened to a copy.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Copy {
    /// Holds the version given.
    Good(u64),
    /// Holds version 2, with another content.
    Odd,
    /// Version 2 that was damaged.
    Torn,
    /// Never written.
    Blank,
    /// Holds what belongs to the other copy.
    Misdirected,
    /// Holds a record of another store.
    Foreign,
}

#[test]
fn pick_newest_of_all_pairs() {
    let states = [
        Copy::Good(1),
        Copy::Good(2),
        Copy::Good(u64::MAX),
        Copy::Odd,
        Copy::Torn,
        Copy::Blank,
        Copy::Misdirected,
        Copy::Foreign,
    ];
    let bytes = |copy: usize, state| {
        let at = AT[copy];
        let mut bytes = match state {
            Copy::Good(n) => encode(&sample(n), n, at),
            Copy::Odd => encode(&sample(77), 2, at),
            Copy::Torn => encode(&sample(2), 2, at),
            Copy::Blank => [0; RECORD_BYTES],
            Copy::Misdirected => encode(&sample(2), 2, AT[1 - copy]),
            Copy::Foreign => {
                let mut buf = [0; RECORD_BYTES];
                sample(9)
                    .encode::<Host>(Uuid([9; 16]), 9, at, &mut buf)
                    .unwrap();
                buf
            }
        };
        if state == Copy::Torn {
            bytes[RECORD_BYTES - 1] ^= 1;
        }
        bytes
    };
    let read = |copy: usize, state| parse(AT[copy], &bytes(copy, state));
    let version = |state| match state {
        Copy::Good(n) => Some((n, sample(n))),
        Copy::Odd => Some((2, sample(77))),
        _ => None,
    };
    for a in states {
        for b in states {
            let picked = pick_newest(read(0, a), read(1, b));
            let expected = match (version(a), version(b)) {
                (None, None) => Err(PickError::Both(
                    read(0, a).unwrap_err(),
                    read(1, b).unwrap_err(),
                )),
                (Some(a), None) => Ok((a, Some(1), false)),
                (None, Some(b)) => Ok((b, Some(0), true)),
                (Some(a), Some(b)) if a.0 > b.0 => {
                    let skipped = a.0 > b.0 + 1;
                    Ok((a, Some(1), skipped))
                }
                (Some(a), Some(b)) if a.0 < b.0 => Ok((b, Some(0), true)),
                (Some(a), Some(b)) if a == b => Ok((a, None, false)),
                (Some(a), Some(_)) => Err(PickError::Contradiction { sequence: a.0 }),
            };
            let expected = expected.map(|((sequence, record), rewrite, suspicious)| Newest {
                sequence,
                record,
                rewrite,
                suspicious,
            });
            assert_eq!(picked, expected, "{a:?} and {b:?}");
            let copies = [&bytes(0, a)[..], &bytes(1, b)[..]];
            let newest = EpochRecord::newest::<Host>(STORE, AT, copies);
            assert_eq!(newest, expected, "{a:?} and {b:?}");
        }
    }
}

#[test]
fn begun_is_what_the_first_sector_says() {
    let at = AT[1];
    let mut bytes = encode(&sample(1), 5, at);
    bytes[512..].fill(0xee);
    assert!(parse(at, &bytes).is_err());
    let begun = |store, at, bytes: &[u8]| EpochRecord::begun(store, at, bytes);
    assert_eq!(begun(STORE, at, &bytes), Some(5));
    assert_eq!(begun(Uuid([9; 16]), at, &bytes), None);
    assert_eq!(begun(STORE, AT[0], &bytes), None);
    let moved = Place {
        offset: at.offset + 4096,
        ..at
    };
    assert_eq!(begun(STORE, moved, &bytes), None);
    assert_eq!(begun(STORE, at, &bytes[..40]), None);
    assert_eq!(begun(STORE, at, &[0; RECORD_BYTES]), None);
    // Magic, kind, format.
    for byte in [0, 8, 10] {
        let other = forged(&bytes, 0, byte, &[0xee]);
        assert_eq!(begun(STORE, at, &other), None, "byte {byte}");
    }
}

proptest! {
    #[test]
    fn round_trip(record in any_record(), sequence: u64, offset: u64, copy in 0u16..2) {
        let at = Place { offset, copy };
        let bytes = encode(&record, sequence, at);
        prop_assert_eq!(parse(at, &bytes), Ok(Versioned { sequence, record }));
    }

    /// Whatever is accepted is what would have been written.
    #[test]
    fn accepted_is_canonical(record in any_record(), at in 0usize..1000, byte: u8) {
        let bytes = forged(&encode(&record, 1, AT[0]), FRAME, at, &[byte]);
        if let Ok(v) = parse(AT[0], &bytes) {
            prop_assert_eq!(&encode(&v.record, v.sequence, AT[0])[..], &bytes[..]);
        }
    }
}
