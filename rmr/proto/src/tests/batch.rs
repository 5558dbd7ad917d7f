// SPDX-License-Identifier: GPL-2.0

use super::*;

fn header() -> Header {
    Header {
        pool: Uuid([0xaa; 16]),
        member: member(3),
        incarnation: Incarnation(5),
        generation: Generation {
            number: 6,
            nonce: 7,
        },
        epoch: Epoch(8),
        watermark: Seq(99),
    }
}

fn read(offset: u64, len: u32) -> Request {
    Request {
        op: Op::Read,
        flags: Flags::EMPTY,
        seq: Seq::NONE,
        offset,
        len,
        data_offset: 0,
    }
}

fn write(seq: u64, offset: u64, len: u32) -> Request {
    Request {
        op: Op::Write,
        flags: Flags::FUA,
        seq: Seq(seq),
        offset,
        len,
        data_offset: 0,
    }
}

fn zeroes(seq: u64, offset: u64, len: u32) -> Request {
    Request {
        op: Op::WriteZeroes,
        flags: Flags::new(true, true),
        seq: Seq(seq),
        offset,
        len,
        data_offset: 0,
    }
}

const FLUSH: Request = Request {
    op: Op::Flush,
    flags: Flags::EMPTY,
    seq: Seq::NONE,
    offset: 0,
    len: 0,
    data_offset: 0,
};

fn encode(header: &Header, requests: &[Request]) -> Vec<u8> {
    let mut buf = [0x55; MAX_BATCH_BYTES];
    let mut encoder = BatchEncoder::new(&mut buf);
    for request in requests {
        encoder.push(request).unwrap();
    }
    encoder.finish::<Host>(header).unwrap().to_vec()
}

fn accepts(bytes: &[u8]) -> bool {
    Batch::parse::<Host>(bytes).is_ok()
}

fn refused(bytes: &[u8]) -> WireError {
    Batch::parse::<Host>(bytes).unwrap_err()
}

/// Offset of a request in a message.
fn request_at(index: usize) -> usize {
    HEADER_BYTES + 24 * index
}

#[test]
fn bytes_on_the_wire() {
    let mut expected = Vec::new();
    expected.extend(b"rmr-msg\0");
    expected.extend(1u16.to_le_bytes());
    expected.extend(1u16.to_le_bytes());
    expected.extend(136u32.to_le_bytes());
    expected.extend([0; 8]);
    expected.extend([0xaa; 16]);
    expected.extend(3u16.to_le_bytes());
    expected.extend(2u16.to_le_bytes());
    expected.extend(4096u32.to_le_bytes());
    for number in [5u64, 6, 7, 8, 99] {
        expected.extend(number.to_le_bytes());
    }
    expected.extend(100u64.to_le_bytes());
    expected.extend(8192u64.to_le_bytes());
    expected.extend(4096u32.to_le_bytes());
    expected.extend([2, 1, 0, 0]);
    expected.extend(101u64.to_le_bytes());
    expected.extend(0u64.to_le_bytes());
    expected.extend(512u32.to_le_bytes());
    expected.extend([4, 3, 0, 0]);
    reseal(&mut expected, HEADER_BYTES);
    assert_eq!(
        encode(&header(), &[write(100, 8192, 4096), zeroes(101, 0, 512)]),
        expected
    );
}

#[test]
fn flags() {
    for (fua, unmap, bits) in [
        (false, false, 0),
        (true, false, 1),
        (false, true, 2),
        (true, true, 3),
    ] {
        let flags = Flags::new(fua, unmap);
        let request = Request { flags, ..FLUSH };
        assert_eq!(flags.bits(), bits);
        assert_eq!((request.fua(), request.unmap()), (fua, unmap));
        assert_eq!(flags.contains(Flags::new(true, true)), fua && unmap);
    }
}

#[test]
fn one_body_for_all_members() {
    let mut buf = [0; MAX_BATCH_BYTES];
    let mut encoder = BatchEncoder::new(&mut buf);
    assert_eq!(encoder.finish::<Host>(&header()), Err(EncodeError::Empty));
    assert!(encoder.is_empty());
    assert_eq!(encoder.push(&write(100, 0, 4096)), Ok(0));
    assert!(!encoder.is_empty());
    assert_eq!(encoder.push(&FLUSH), Ok(4096));
    let first = encoder.finish::<Host>(&header()).unwrap().to_vec();
    let other = Header {
        member: member(32),
        incarnation: Incarnation(77),
        ..header()
    };
    let second = encoder.finish::<Host>(&other).unwrap().to_vec();
    assert_eq!(*Batch::parse::<Host>(&first).unwrap().header(), header());
    assert_eq!(*Batch::parse::<Host>(&second).unwrap().header(), other);
    assert_eq!(first[HEADER_BYTES..], second[HEADER_BYTES..]);
    // More requests after a message was made: the sum of the body is not the old one.
    assert_eq!(encoder.push(&write(101, 0, 512)), Ok(4096));
    let third = encoder.finish::<Host>(&header()).unwrap().to_vec();
    let batch = Batch::parse::<Host>(&third).unwrap();
    assert_eq!(
        (batch.len(), batch.data_len(), batch.kind()),
        (3, 4608, Kind::IoWrite)
    );
    assert_eq!(
        batch.get(2),
        Some(Request {
            data_offset: 4096,
            ..write(101, 0, 512)
        })
    );
    assert_eq!(batch.get(3), None);
}

#[test]
fn encoder_refuses() {
    let mut buf = [0; MAX_BATCH_BYTES];
    let mut encoder = BatchEncoder::new(&mut buf);
    for _ in 0..MAX_BATCH {
        encoder.push(&read(0, MAX_IO)).unwrap();
    }
    assert_eq!(encoder.push(&read(0, 512)), Err(EncodeError::Full));
    assert_eq!(encoder.push(&FLUSH), Err(EncodeError::Mixed));
    assert_eq!(encoder.len(), MAX_BATCH);
    assert_eq!(encoder.data_len(), 32 * MAX_IO);
    assert_eq!(
        encoder.finish::<Host>(&header()).unwrap().len(),
        MAX_BATCH_BYTES
    );

    let mut encoder = BatchEncoder::new(&mut buf);
    assert_eq!(
        encoder.push(&write(0, 0, 512)),
        Err(EncodeError::Request(RequestError::NoSeq))
    );
    assert!(encoder.is_empty());
    encoder.push(&write(100, 0, 512)).unwrap();
    encoder.push(&write(99, 0, 512)).unwrap();
    let below = WireError::BelowWatermark {
        index: 0,
        seq: Seq(99),
        watermark: Seq(99),
    };
    assert_eq!(
        encoder.finish::<Host>(&header()),
        Err(EncodeError::Header(below))
    );
    let nobody = Header {
        pool: Uuid::NIL,
        watermark: Seq(1),
        ..header()
    };
    assert_eq!(
        encoder.finish::<Host>(&nobody),
        Err(EncodeError::Header(WireError::Missing("pool UUID")))
    );
}

#[test]
fn damaged() {
    let full: Vec<_> = (0..32).map(|i| write(100 + i, i * 4096, 4096)).collect();
    for requests in [
        &[read(1 << 44, 4096)][..],
        &[write(100, 0, 512), FLUSH, zeroes(101, 4096, MAX_IO)],
        &full,
    ] {
        let bytes = encode(&header(), requests);
        refuses_bit_flips(&bytes, accepts);
        refuses_truncation(&bytes, HEADER_BYTES, accepts);
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(
            refused(&longer),
            WireError::Length {
                said: bytes.len() as u32,
                right: longer.len()
            }
        );
    }
    assert_eq!(refused(&[]), WireError::Short { len: 0, need: 88 });
}

/// Everything that can be wrong behind a right checksum.
#[test]
fn refused_fields() {
    let good = encode(&header(), &[write(100, 8192, 4096), zeroes(101, 0, 512)]);
    let with = |at: usize, new: &[u8]| refused(&forged(&good, HEADER_BYTES, at, new));
    let request = |index, why| WireError::Request { index, why };

    assert_eq!(with(0, b"x"), WireError::Magic);
    assert_eq!(with(8, &[2, 0]), WireError::Version(2));
    assert_eq!(WireError::Version(2).status(), Status::WrongVersion);
    assert_eq!(WireError::Magic.status(), Status::Invalid);
    assert_eq!(with(10, &[9, 0]), WireError::Kind(9));
    assert_eq!(with(10, &[16, 0]), WireError::Kind(16));
    assert_eq!(with(10, &[2, 0]), WireError::Direction { index: 0 });
    assert_eq!(
        with(12, &[0; 4]),
        WireError::Length {
            said: 0,
            right: good.len()
        }
    );
    assert_eq!(
        with(12, &[0xff; 4]),
        WireError::Length {
            said: u32::MAX,
            right: good.len()
        }
    );
    assert_eq!(with(20, &[1]), WireError::Reserved);
    assert_eq!(with(24, &[0; 16]), WireError::Missing("pool UUID"));
    assert_eq!(with(40, &[0, 0]), WireError::Member(0));
    assert_eq!(with(40, &[33, 0]), WireError::Member(33));
    assert_eq!(with(40, &[1, 1]), WireError::Member(257));
    assert_eq!(with(42, &[0, 0]), WireError::Count(0));
    assert_eq!(with(42, &[33, 0]), WireError::Count(33));
    assert_eq!(with(42, &[0xff, 0xff]), WireError::Count(u16::MAX));
    assert_eq!(
        with(42, &[1, 0]),
        WireError::Length {
            said: 136,
            right: 112
        }
    );
    assert_eq!(
        with(42, &[3, 0]),
        WireError::Length {
            said: 136,
            right: 160
        }
    );
    assert_eq!(with(44, &[0; 4]), WireError::DataLen { said: 0, sum: 4096 });
    assert_eq!(with(48, &[0; 8]), WireError::Missing("incarnation"));
    assert_eq!(with(56, &[0; 8]), WireError::Missing("generation"));
    assert_eq!(with(72, &[0; 8]), WireError::Missing("epoch"));
    assert_eq!(
        with(80, &100u64.to_le_bytes()),
        WireError::BelowWatermark {
            index: 0,
            seq: Seq(100),
            watermark: Seq(100)
        }
    );

    let second = request_at(1);
    assert_eq!(with(second, &[0; 8]), request(1, RequestError::NoSeq));
    assert_eq!(
        with(second + 8, &[1]),
        request(
            1,
            RequestError::Unaligned {
                offset: 1,
                len: 512
            }
        )
    );
    assert_eq!(
        with(second + 8, &[1, 0, 0, 0, 0, 0, 0, 0, 1, 2]),
        request(
            1,
            RequestError::Unaligned {
                offset: 1,
                len: 513
            }
        )
    );
    let end = u64::MAX - 511;
    assert_eq!(
        with(second + 8, &end.to_le_bytes()),
        request(1, RequestError::Offset(end))
    );
    let op = Op::WriteZeroes;
    assert_eq!(
        with(second + 16, &[0; 4]),
        request(1, RequestError::Length { op, len: 0 })
    );
    assert_eq!(
        with(second + 16, &513u32.to_le_bytes()),
        request(
            1,
            RequestError::Unaligned {
                offset: 0,
                len: 513
            }
        )
    );
    let len = MAX_IO + 512;
    assert_eq!(
        with(second + 16, &len.to_le_bytes()),
        request(1, RequestError::Length { op, len })
    );
    assert_eq!(with(second + 20, &[0]), request(1, RequestError::Op(0)));
    assert_eq!(with(second + 20, &[5]), request(1, RequestError::Op(5)));
    assert_eq!(
        with(second + 20, &[1]),
        request(
            1,
            RequestError::Flags {
                op: Op::Read,
                flags: 3
            }
        )
    );
    assert_eq!(
        with(second + 20, &[1, 0]),
        request(1, RequestError::Seq(Seq(101)))
    );
    assert_eq!(
        with(second + 20, &[3, 0]),
        request(1, RequestError::Seq(Seq(101)))
    );
    assert_eq!(
        with(second + 21, &[4]),
        request(1, RequestError::Flags { op, flags: 4 })
    );
    assert_eq!(with(second + 22, &[1]), request(1, RequestError::Reserved));
    assert_eq!(with(second + 23, &[1]), request(1, RequestError::Reserved));
    let first = request_at(0);
    assert_eq!(
        with(first + 21, &[2]),
        request(
            0,
            RequestError::Flags {
                op: Op::Write,
                flags: 2
            }
        )
    );

    let flush = encode(&header(), &[FLUSH]);
    let with = |at: usize, new: &[u8]| refused(&forged(&flush, HEADER_BYTES, at, new));
    assert_eq!(
        with(first + 8, &512u64.to_le_bytes()),
        request(0, RequestError::Offset(512))
    );
    assert_eq!(
        with(first + 16, &512u32.to_le_bytes()),
        request(
            0,
            RequestError::Length {
                op: Op::Flush,
                len: 512
            }
        )
    );
    assert_eq!(
        with(first + 21, &[1]),
        request(
            0,
            RequestError::Flags {
                op: Op::Flush,
                flags: 1
            }
        )
    );
}

#[test]
fn ends_of_the_offset_space() {
    for offset in [0, 16 << 40, u64::MAX - 1023] {
        assert!(accepts(&encode(&header(), &[read(offset, 512)])));
    }
    assert_eq!(
        read(u64::MAX - 511, 512).check(),
        Err(RequestError::Offset(u64::MAX - 511))
    );
}

prop_compose! {
    fn any_write(above: u64)(
        seq in above + 1..=u64::MAX,
        sector in 0..=(u64::MAX - u64::from(MAX_IO)) / 512,
        sectors in 1..=MAX_IO / 512,
        kind in 0..4,
        fua: bool,
        unmap: bool,
    ) -> Request {
        let (offset, len) = (sector * 512, sectors * 512);
        match kind {
            0 => FLUSH,
            1 => Request { flags: Flags::new(fua, unmap), ..zeroes(seq, offset, len) },
            _ => Request { flags: Flags::new(fua, false), ..write(seq, offset, len) },
        }
    }
}

prop_compose! {
    fn any_header()(
        pool in any_uuid(),
        member in any_member(),
        incarnation in 1u64..,
        generation in any_generation(),
        epoch in 1u64..,
        watermark in 0..u64::MAX,
    ) -> Header {
        Header {
            pool,
            member,
            incarnation: Incarnation(incarnation),
            generation,
            epoch: Epoch(epoch),
            watermark: Seq(watermark),
        }
    }
}

fn any_batch() -> impl Strategy<Value = (Header, Vec<Request>)> {
    any_header().prop_flat_map(|header| {
        let writes = proptest::collection::vec(any_write(header.watermark.0), 1..=MAX_BATCH);
        let read =
            (0u64..1 << 50, 1..=MAX_IO / 512).prop_map(|(at, len)| read(at * 512, len * 512));
        let reads = proptest::collection::vec(read, 1..=MAX_BATCH);
        (Just(header), prop_oneof![writes, reads])
    })
}

proptest! {
    #[test]
    fn round_trip((header, requests) in any_batch()) {
        let bytes = encode(&header, &requests);
        let batch = Batch::parse::<Host>(&bytes).unwrap();
        prop_assert_eq!(*batch.header(), header);
        prop_assert_eq!(batch.requests().len(), requests.len());
        prop_assert!(!batch.is_empty());
        let mut data_offset = 0;
        for (got, sent) in batch.requests().zip(&requests) {
            prop_assert_eq!(got, Request { data_offset, ..*sent });
            data_offset += sent.data_len();
        }
        prop_assert_eq!(batch.data_len(), data_offset);
        prop_assert!(matches!(Message::parse::<Host>(&bytes), Ok(Message::Io(_))));
        prop_assert_eq!(Control::parse::<Host>(&bytes), Err(WireError::Kind(batch.kind().wire())));
    }

    /// Whatever is accepted is what the encoder would have sent.
    #[test]
    fn accepted_is_canonical((header, requests) in any_batch(), at in 0usize..MAX_BATCH_BYTES, byte: u8) {
        let mut bytes = encode(&header, &requests);
        let at = at % bytes.len();
        bytes[at] = byte;
        reseal(&mut bytes, HEADER_BYTES);
        if let Ok(batch) = Batch::parse::<Host>(&bytes) {
            let requests: Vec<_> = batch.requests().collect();
            prop_assert_eq!(encode(batch.header(), &requests), bytes);
        }
    }

    #[test]
    fn noise(mut bytes in proptest::collection::vec(any::<u8>(), HEADER_BYTES..=MAX_BATCH_BYTES)) {
        prop_assert!(!accepts(&bytes));
        bytes[..8].copy_from_slice(b"rmr-msg\0");
        bytes[8..12].copy_from_slice(&[1, 0, 1, 0]);
        let len = bytes.len() as u32;
        bytes[12..16].copy_from_slice(&len.to_le_bytes());
        reseal(&mut bytes, HEADER_BYTES);
        let _ = Message::parse::<Host>(&bytes);
    }
}
