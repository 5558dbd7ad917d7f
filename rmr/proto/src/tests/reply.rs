// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::limits::tests::any_limits;

const HEADER: usize = 24;

prop_compose! {
    fn any_report()(
        versions: (u16, u16),
        pool in any_uuid(),
        store in any_uuid(),
        member in any_member(),
        incarnation in 1u64..,
        geometry in any_geometry(),
        limits in any_limits(),
        promised in prop_oneof![Just(Generation::NONE), any_generation()],
        installed in proptest::option::of(any_config()),
        serving: bool,
        progress in prop_oneof![
            Just(Progress::Unknown),
            (1u64.., any::<u64>()).prop_map(|(chunks, rate)| Progress::Dirty { chunks, rate }),
            Just(Progress::Ready),
        ],
        log_extents in 2..=MAX_LOG_EXTENTS,
        nil: bool,
    ) -> MemberReport {
        MemberReport {
            version_min: versions.0.min(versions.1),
            version_max: versions.0.max(versions.1),
            pool: if nil && installed.is_none() { Uuid::NIL } else { pool },
            store,
            member,
            incarnation: Incarnation(incarnation),
            geometry,
            limits,
            promised,
            serving: serving && installed.is_some(),
            installed,
            progress,
            log_extents,
        }
    }
}

fn any_status() -> impl Strategy<Value = Status> {
    (0..Status::ALL.len()).prop_map(|i| Status::ALL[i])
}

fn any_suspects() -> impl Strategy<Value = Suspects<'static>> {
    let run = (any::<u32>(), 1u32..).prop_map(|(first, chunks)| Run::new(first.into(), chunks));
    let some = proptest::collection::vec(run, 0..20).prop_map(|runs| Suspects {
        all: false,
        runs: runs.leak(),
    });
    prop_oneof![Just(ALL), some]
}

const ALL: Suspects<'static> = Suspects {
    all: true,
    runs: &[],
};

fn any_reply() -> impl Strategy<Value = Reply<'static>> {
    let kind = prop_oneof![
        Just(Kind::Query),
        Just(Kind::Promise),
        Just(Kind::Install),
        Just(Kind::Detach),
        Just(Kind::Ping),
        Just(Kind::Merge)
    ];
    let status = prop_oneof![Just(Status::Ok), any_status()];
    let report = proptest::option::of(any_report());
    (kind, status, report, any_suspects())
        .prop_filter("a report is needed", |(kind, status, report, _)| {
            report.is_some() || !status.is_ok() || !matches!(kind, Kind::Query | Kind::Promise)
        })
        .prop_map(|(kind, status, report, suspects)| Reply {
            report,
            suspects: if kind == Kind::Promise && status.is_ok() {
                suspects
            } else {
                Suspects::default()
            },
            ..Reply::bare(kind, status)
        })
}

fn encode(reply: &Reply<'_>) -> Vec<u8> {
    let mut buf = [0x55; REPLY_BYTES];
    let len = reply.encode::<Host>(&mut buf).unwrap().len();
    assert!(buf[len..].iter().all(|b| *b == 0));
    buf[..len].to_vec()
}

fn report() -> MemberReport {
    MemberReport {
        version_min: 1,
        version_max: 1,
        pool: Uuid::NIL,
        store: Uuid([1; 16]),
        member: member(2),
        incarnation: Incarnation(3),
        geometry: Geometry::new(16 << 40, 16).unwrap(),
        limits: Limits {
            logical_block: 512,
            physical_block: 4096,
            io_min: 4096,
            io_opt: 0,
            max_write_zeroes: 1 << 20,
            features: Features::WRITE_CACHE | Features::DISCARD,
        },
        promised: Generation {
            number: 4,
            nonce: 5,
        },
        installed: None,
        serving: false,
        progress: Progress::Dirty { chunks: 9, rate: 6 },
        log_extents: 64,
    }
}

fn query() -> Reply<'static> {
    Reply {
        report: Some(report()),
        ..Reply::bare(Kind::Query, Status::Ok)
    }
}

fn promise(suspects: Suspects<'_>) -> Reply<'_> {
    Reply {
        kind: Kind::Promise,
        suspects,
        ..query()
    }
}

#[test]
fn bytes_on_the_wire() {
    let mut expected = Vec::new();
    expected.extend(b"rmr-rep\0");
    expected.extend(1u16.to_le_bytes());
    expected.extend(17u16.to_le_bytes());
    expected.extend(1288u32.to_le_bytes());
    expected.extend([0; 4]);
    expected.extend([0, 0, 0, 0]);
    expected.extend([1, 0, 1, 0, 2, 0, 0, 0]);
    expected.extend([0; 16]);
    expected.extend([1; 16]);
    expected.extend(3u64.to_le_bytes());
    expected.extend((16u64 << 40).to_le_bytes());
    expected.extend([16, 0, 0, 0, 0, 0, 0, 0]);
    for number in [512u32, 4096, 4096, 0, 1 << 20, 5] {
        expected.extend(number.to_le_bytes());
    }
    expected.extend(4u64.to_le_bytes());
    expected.extend(5u64.to_le_bytes());
    expected.extend(9u64.to_le_bytes());
    expected.extend(64u32.to_le_bytes());
    expected.extend([2, 0, 1, 0]);
    expected.extend(6u64.to_le_bytes());
    expected.extend([0; 1104]);
    for (first, chunks) in [(7u64, 8u32), (1 << 40, 1)] {
        expected.extend(first.to_le_bytes());
        expected.extend(chunks.to_le_bytes());
        expected.extend([0; 4]);
    }
    reseal(&mut expected, HEADER);
    let runs = [Run::new(7, 8), Run::new(1 << 40, 1)];
    let suspects = Suspects {
        all: false,
        runs: &runs,
    };
    assert_eq!(encode(&promise(suspects)), expected);
}

#[test]
fn damaged() {
    let runs = [Run::new(7, 8); 3];
    let suspects = Suspects {
        all: false,
        runs: &runs,
    };
    for reply in [
        query(),
        Reply::bare(Kind::Ping, Status::Busy),
        promise(suspects),
        promise(ALL),
    ] {
        let bytes = encode(&reply);
        let accepts = |bytes: &[u8]| Reply::parse::<Host>(bytes, reply.kind).is_ok();
        refuses_bit_flips(&bytes, accepts);
        refuses_truncation(&bytes, HEADER, accepts);
    }
    // A buffer nobody wrote to.
    assert_eq!(
        Reply::parse::<Host>(&[0; REPLY_BYTES], Kind::Query),
        Err(WireError::Magic)
    );
}

#[test]
fn refused_fields() {
    let good = encode(&query());
    let with = |at: usize, new: &[u8]| {
        Reply::parse::<Host>(&forged(&good, HEADER, at, new), Kind::Query).unwrap_err()
    };
    assert_eq!(
        Reply::parse::<Host>(&good, Kind::Promise),
        Err(WireError::Kind(16))
    );
    assert_eq!(with(8, &[9]), WireError::Version(9));
    assert_eq!(with(12, &[0, 0]), WireError::Length { said: 0, right: 24 });
    assert_eq!(
        with(12, &[0xff; 4]),
        WireError::Length {
            said: u32::MAX,
            right: 24
        }
    );
    assert_eq!(with(20, &[1, 0]), WireError::Status(1));
    assert_eq!(with(20, &[0, 2]), WireError::Status(512));
    assert_eq!(with(22, &[1]), WireError::Reserved);
    assert_eq!(with(HEADER, &[2]), WireError::Version(2));
    assert_eq!(with(HEADER + 4, &[0]), WireError::Member(0));
    assert_eq!(with(HEADER + 4, &[33]), WireError::Member(33));
    assert_eq!(with(HEADER + 6, &[1]), WireError::Missing("configuration"));
    assert_eq!(with(HEADER + 6, &[2]), WireError::Reserved);
    assert_eq!(with(HEADER + 6, &[4]), WireError::Flags(4));
    assert_eq!(
        with(HEADER + 24, &[0; 16]),
        WireError::Missing("store UUID")
    );
    assert_eq!(
        with(HEADER + 40, &[0; 8]),
        WireError::Missing("incarnation")
    );
    assert_eq!(
        with(HEADER + 48, &[0; 8]),
        WireError::Geometry(GeometryError::Size(0))
    );
    assert_eq!(
        with(HEADER + 56, &[63]),
        WireError::Geometry(GeometryError::ChunkShift(63))
    );
    assert_eq!(with(HEADER + 57, &[1]), WireError::Reserved);
    assert!(matches!(with(HEADER + 64, &[0, 0]), WireError::Limits(_)));
    assert!(matches!(with(HEADER + 84, &[64]), WireError::Limits(_)));
    assert_eq!(with(HEADER + 104, &[0]), WireError::Progress(1, 0));
    for extents in [0u32, 1, 1025] {
        assert_eq!(
            with(HEADER + 112, &extents.to_le_bytes()),
            WireError::LogExtents(extents)
        );
    }
    let length = |said| WireError::Length { said, right: 1256 };
    assert_eq!(with(HEADER + 116, &[1]), length(1256));
    assert_eq!(with(HEADER + 118, &[3]), WireError::Progress(3, 9));
    assert_eq!(with(HEADER + 119, &[1]), WireError::Reserved);
    let idle = encode(&Reply {
        report: Some(MemberReport {
            progress: Progress::Ready,
            ..report()
        }),
        ..query()
    });
    assert_eq!(
        Reply::parse::<Host>(&forged(&idle, HEADER, HEADER + 120, &[1]), Kind::Query),
        Err(WireError::Progress(2, 0))
    );
    assert_eq!(
        with(HEADER + 128, &[1]),
        WireError::Config(ConfigError::NotEmpty)
    );
    let runs = [Run::new(7, 8)];
    let good = encode(&promise(Suspects {
        all: false,
        runs: &runs,
    }));
    let with = |at: usize, new: &[u8]| {
        Reply::parse::<Host>(&forged(&good, HEADER, at, new), Kind::Promise).unwrap_err()
    };
    assert_eq!(with(HEADER + 6, &[2]), WireError::Count(1));
    assert_eq!(with(20, &22u16.to_le_bytes()), WireError::Status(22));
    assert_eq!(
        with(20, &Status::Busy.wire().to_le_bytes()),
        WireError::Reserved
    );
    let run = HEADER + 1232;
    assert_eq!(
        with(run + 8, &[0]),
        WireError::Run {
            first: 7,
            chunks: 0
        }
    );
    assert_eq!(with(run + 12, &[1]), WireError::Reserved);
}

#[test]
fn encoder_refuses() {
    let refused = |reply: Reply| reply.encode::<Host>(&mut [0; REPLY_BYTES]).unwrap_err();
    assert_eq!(
        refused(Reply {
            report: None,
            ..query()
        }),
        WireError::Missing("report")
    );
    assert_eq!(
        refused(Reply {
            kind: Kind::IoRead,
            ..query()
        }),
        WireError::Kind(2)
    );
    assert_eq!(
        refused(Reply {
            suspects: ALL,
            ..query()
        }),
        WireError::Reserved
    );
    let runs = [Run::new(1, 1); MAX_SUSPECTS + 1];
    assert_eq!(
        refused(promise(Suspects {
            all: false,
            runs: &runs
        })),
        WireError::Count(1025)
    );
    let full = promise(Suspects {
        all: false,
        runs: &runs[1..],
    });
    assert!(full.encode::<Host>(&mut [0; REPLY_BYTES]).is_ok());
    let nobody = MemberReport {
        store: Uuid::NIL,
        ..report()
    };
    assert_eq!(
        refused(Reply {
            report: Some(nobody),
            ..query()
        }),
        WireError::Missing("store UUID")
    );
}

proptest! {
    #[test]
    fn round_trip(reply in any_reply(), behind in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = encode(&reply);
        bytes.extend(behind);
        let parsed = Reply::parse::<Host>(&bytes, reply.kind);
        prop_assert_eq!(parsed.as_ref(), Ok(&reply));
        let suspects = Suspects::default();
        prop_assert_eq!(reply.clone().without_suspects(), Reply { suspects, ..reply });
    }

    /// Whatever is accepted is what the encoder would have sent.
    #[test]
    fn accepted_is_canonical(reply in any_reply(), at in 0usize..1400, byte: u8) {
        let mut bytes = encode(&reply);
        let at = at % bytes.len();
        bytes[at] = byte;
        reseal(&mut bytes, HEADER);
        if let Ok(reply) = Reply::parse::<Host>(&bytes, reply.kind) {
            prop_assert_eq!(encode(&reply), bytes);
        }
    }
}

fn begun(begun: Begun) -> Vec<u8> {
    let mut buf = [0x55; REPLY_BYTES];
    begun.encode::<Host>(&mut buf).unwrap().to_vec()
}

#[test]
fn begun_on_the_wire() {
    let mut expected = Vec::new();
    expected.extend(b"rmr-rep\0");
    expected.extend([1, 0, 35, 0]);
    expected.extend(40u32.to_le_bytes());
    expected.extend([0; 8]);
    expected.extend((5u64 << 40).to_le_bytes());
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    reseal(&mut expected, HEADER);
    let known = Begun {
        seq: Seq(5 << 40),
        reads: true,
    };
    assert_eq!(begun(known), expected);
    assert_eq!(Begun::parse::<Host>(&expected), Ok(known));
    let unread = Begun {
        reads: false,
        ..known
    };
    assert_eq!(Begun::parse::<Host>(&begun(unread)), Ok(unread));
    let accepts = |bytes: &[u8]| Begun::parse::<Host>(bytes).is_ok();
    refuses_bit_flips(&expected, accepts);
    refuses_truncation(&expected, HEADER, accepts);
    let with = |at: usize, new: &[u8]| Begun::parse::<Host>(&forged(&expected, HEADER, at, new));
    assert_eq!(with(10, &[32]), Err(WireError::Kind(32)));
    let busy = Status::Busy.wire();
    assert_eq!(with(20, &busy.to_le_bytes()), Err(WireError::Status(busy)));
    let length = WireError::Length {
        said: 32,
        right: 40,
    };
    for reserved in [HEADER + 8, HEADER + 12] {
        assert_eq!(with(reserved, &[2]), Err(WireError::Reserved));
    }
    let short = forged(&expected[..HEADER + 8], HEADER, 12, &[32]);
    assert_eq!(Begun::parse::<Host>(&short), Err(length));
}
