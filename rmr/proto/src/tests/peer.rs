// SPDX-License-Identifier: GPL-2.0

use super::*;

fn peer(ask: Ask<'_>) -> Peer<'_> {
    Peer {
        to: Header {
            pool: Uuid([0xaa; 16]),
            member: member(3),
            incarnation: Incarnation(5),
            generation: Generation {
                number: 6,
                nonce: 7,
            },
            epoch: Epoch(8),
            watermark: Seq::NONE,
        },
        from: member(2),
        ask,
    }
}

const PULL: Ask<'static> = Ask::Pull {
    offset: 1 << 40,
    len: 65536,
};

fn fetch() -> Ask<'static> {
    Ask::FetchDirty {
        of: member(4),
        page: 9,
    }
}

fn encode(peer: &Peer<'_>) -> Vec<u8> {
    let mut buf = [0x55; MAX_PEER_BYTES];
    peer.encode::<Host>(&mut buf).unwrap().to_vec()
}

fn accepts(bytes: &[u8]) -> bool {
    Peer::parse::<Host>(bytes).is_ok()
}

#[test]
fn bytes_on_the_wire() {
    let runs = [Run::new(7, 8), Run::new(1 << 40, 1)];
    let asks = [fetch(), PULL, Ask::Clear { runs: &runs }, Ask::Begun];
    for (kind, ask) in (32u16..).zip(asks) {
        let (of, len, offset) = match ask {
            Ask::FetchDirty { .. } => (4u16, 0u32, 9u64),
            Ask::Pull { .. } => (0, 65536, 1 << 40),
            Ask::Clear { .. } | Ask::Begun => (0, 0, 0),
        };
        let mut body = Vec::new();
        body.extend(2u16.to_le_bytes());
        body.extend(of.to_le_bytes());
        body.extend(len.to_le_bytes());
        body.extend(offset.to_le_bytes());
        if kind == 34 {
            for (first, chunks) in [(7u64, 8u32), (1 << 40, 1)] {
                body.extend(first.to_le_bytes());
                body.extend(chunks.to_le_bytes());
                body.extend([0; 4]);
            }
        }
        let mut expected = Vec::new();
        expected.extend(b"rmr-msg\0");
        expected.extend(1u16.to_le_bytes());
        expected.extend(kind.to_le_bytes());
        expected.extend((88 + body.len() as u32).to_le_bytes());
        expected.extend([0; 8]);
        expected.extend([0xaa; 16]);
        expected.extend([3, 0, 0, 0, 0, 0, 0, 0]);
        for number in [5u64, 6, 7, 8, 0] {
            expected.extend(number.to_le_bytes());
        }
        expected.extend(body);
        reseal(&mut expected, HEADER_BYTES);
        assert_eq!(encode(&peer(ask)), expected);
    }
}

#[test]
fn damaged() {
    let runs = [Run::new(7, 8), Run::new(1 << 40, 1)];
    for ask in [fetch(), PULL, Ask::Clear { runs: &runs }, Ask::Begun] {
        let bytes = encode(&peer(ask));
        refuses_bit_flips(&bytes, accepts);
        refuses_truncation(&bytes[..HEADER_BYTES + 16], HEADER_BYTES, |bytes| {
            accepts(bytes) || bytes.len() == HEADER_BYTES + 16
        });
        refuses_truncation(&bytes, bytes.len(), accepts);
    }
}

#[test]
fn refused_fields() {
    let runs = [Run::new(7, 8)];
    let [fetch, pull, clear, begun] =
        [fetch(), PULL, Ask::Clear { runs: &runs }, Ask::Begun].map(|ask| encode(&peer(ask)));
    let with = |bytes: &[u8], at: usize, new: &[u8]| {
        Peer::parse::<Host>(&forged(bytes, HEADER_BYTES, at, new)).unwrap_err()
    };
    const BODY: usize = HEADER_BYTES;
    for bytes in [&fetch, &pull, &clear, &begun] {
        assert_eq!(with(bytes, 10, &[16]), WireError::Kind(16));
        assert_eq!(with(bytes, 24, &[0; 16]), WireError::Missing("pool UUID"));
        assert_eq!(with(bytes, 40, &[0]), WireError::Member(0));
        assert_eq!(with(bytes, 42, &[1]), WireError::Reserved);
        assert_eq!(with(bytes, 44, &[1]), WireError::Reserved);
        assert_eq!(with(bytes, 48, &[0]), WireError::Missing("incarnation"));
        assert_eq!(with(bytes, 56, &[0]), WireError::Missing("generation"));
        assert_eq!(with(bytes, 72, &[0]), WireError::Missing("epoch"));
        assert_eq!(with(bytes, 80, &[1]), WireError::Reserved);
        assert_eq!(with(bytes, BODY, &[0]), WireError::Member(0));
        assert_eq!(with(bytes, BODY, &[33]), WireError::Member(33));
        // From itself.
        assert_eq!(with(bytes, BODY, &[3]), WireError::Member(3));
    }
    assert_eq!(with(&fetch, BODY + 2, &[0]), WireError::Member(0));
    assert_eq!(with(&fetch, BODY + 4, &[1]), WireError::Reserved);
    assert_eq!(with(&pull, BODY + 2, &[1]), WireError::Reserved);
    for at in [2, 4, 8] {
        assert_eq!(with(&clear, BODY + at, &[1]), WireError::Reserved);
        assert_eq!(with(&begun, BODY + at, &[1]), WireError::Reserved);
    }
    let range = |offset, len| WireError::Range { offset, len };
    assert_eq!(with(&pull, BODY + 8, &[1]), range((1 << 40) + 1, 65536));
    assert_eq!(with(&pull, BODY + 4, &[0; 4]), range(1 << 40, 0));
    let long = MAX_PULL + 4096;
    assert_eq!(
        with(&pull, BODY + 4, &long.to_le_bytes()),
        range(1 << 40, long)
    );
    // Neither of them a multiple of a block.
    let odd = forged(&pull, HEADER_BYTES, BODY + 4, &4608u32.to_le_bytes());
    assert_eq!(
        with(&odd, BODY + 8, &512u64.to_le_bytes()),
        range(512, 4608)
    );
    let end = u64::MAX - 4095;
    assert_eq!(with(&pull, BODY + 8, &end.to_le_bytes()), range(end, 65536));
    assert_eq!(
        with(&clear, BODY + 24, &[0]),
        WireError::Run {
            first: 7,
            chunks: 0
        }
    );
    let longer = [&fetch[..], &[0; 16]].concat();
    assert_eq!(
        with(&longer, 12, &[120]),
        WireError::Length {
            said: 120,
            right: 104
        }
    );
}

#[test]
fn encoder_refuses() {
    let refused = |peer: &Peer<'_>| {
        let mut buf = [0; MAX_PEER_BYTES];
        peer.encode::<Host>(&mut buf).unwrap_err()
    };
    let runs = [Run::new(1, 1); MAX_CLEAR + 1];
    assert_eq!(
        refused(&peer(Ask::Clear { runs: &[] })),
        WireError::Count(0)
    );
    assert_eq!(
        refused(&peer(Ask::Clear { runs: &runs })),
        WireError::Count(65)
    );
    let full = peer(Ask::Clear { runs: &runs[1..] });
    assert_eq!(encode(&full).len(), MAX_PEER_BYTES);
    let mut marked = peer(PULL);
    marked.to.watermark = Seq(1);
    assert_eq!(refused(&marked), WireError::Reserved);
}

fn any_peer() -> impl Strategy<Value = Peer<'static>> {
    let run = (any::<u32>(), 1u32..).prop_map(|(first, chunks)| Run::new(first.into(), chunks));
    let runs = proptest::collection::vec(run, 1..=MAX_CLEAR);
    let ask = prop_oneof![
        (any_member(), any::<u64>()).prop_map(|(of, page)| Ask::FetchDirty { of, page }),
        (0u64..1 << 50, 1..=MAX_PULL >> 12).prop_map(|(block, blocks)| Ask::Pull {
            offset: block << 12,
            len: blocks << 12,
        }),
        runs.prop_map(|runs| Ask::Clear { runs: runs.leak() }),
        Just(Ask::Begun),
    ];
    let to = (any_uuid(), any_member(), 1u64.., any_generation(), 1u64..);
    (to, any_member(), ask)
        .prop_filter("from itself", |(to, from, _)| to.1 != *from)
        .prop_map(
            |((pool, member, incarnation, generation, epoch), from, ask)| Peer {
                to: Header {
                    pool,
                    member,
                    incarnation: Incarnation(incarnation),
                    generation,
                    epoch: Epoch(epoch),
                    watermark: Seq::NONE,
                },
                from,
                ask,
            },
        )
}

proptest! {
    #[test]
    fn round_trip(peer in any_peer()) {
        let bytes = encode(&peer);
        prop_assert_eq!(Peer::parse::<Host>(&bytes), Ok(peer));
        prop_assert!(matches!(Message::parse::<Host>(&bytes), Ok(Message::Peer(p)) if p == peer));
        prop_assert_eq!(Control::parse::<Host>(&bytes), Err(WireError::Kind(peer.kind().wire())));
        prop_assert_eq!(Batch::parse::<Host>(&bytes).unwrap_err(), WireError::Kind(peer.kind().wire()));
    }

    /// Whatever is accepted is what the encoder would have sent.
    #[test]
    fn accepted_is_canonical(peer in any_peer(), at in 0usize..200, byte: u8) {
        let mut bytes = encode(&peer);
        let at = at % bytes.len();
        bytes[at] = byte;
        reseal(&mut bytes, HEADER_BYTES);
        if let Ok(peer) = Peer::parse::<Host>(&bytes) {
            prop_assert_eq!(encode(&peer), bytes);
        }
    }
}
