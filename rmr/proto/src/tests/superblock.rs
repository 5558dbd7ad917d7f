// SPDX-License-Identifier: GPL-2.0

use super::*;

const FRAME: usize = 64;
const AREAS: usize = FRAME + 104;

prop_compose! {
    fn any_superblock()(
        ready: bool,
        store in any_uuid(),
        pool in prop_oneof![Just(Uuid::NIL), any_uuid()],
        name in any_name(),
        member in any_member(),
        block in 9u32..=12,
        geometry in any_geometry(),
    ) -> Superblock {
        let state = if ready { StoreState::Ready } else { StoreState::Initialising };
        let layout = Layout::compute(u64::MAX, geometry).unwrap();
        Superblock { state, store, pool, name, member, logical_block: 1 << block, layout }
    }
}

fn sample() -> Superblock {
    let geometry = Geometry::new(1 << 30, 16).unwrap();
    Superblock {
        state: StoreState::Ready,
        store: Uuid([7; 16]),
        pool: Uuid::NIL,
        name: "vm-images".parse().unwrap(),
        member: member(2),
        logical_block: 512,
        layout: Layout::compute(2 << 30, geometry).unwrap(),
    }
}

fn encode(superblock: &Superblock, sequence: u64, copy: u16) -> (Place, [u8; RECORD_BYTES]) {
    let mut buf = [0x55; RECORD_BYTES];
    let at = superblock.encode::<Host>(sequence, copy, &mut buf).unwrap();
    assert_eq!(at, superblock.layout.superblock()[usize::from(copy)]);
    (at, buf)
}

#[test]
fn bytes_on_disk() {
    const MIB: u64 = 1 << 20;
    let mut expected = Vec::new();
    expected.extend(b"rmr-disk");
    expected.extend([1, 0, 1, 0]);
    expected.extend(4096u32.to_le_bytes());
    expected.extend([0; 8]);
    expected.extend([7; 16]);
    for number in [4096u64, 5, 0] {
        expected.extend(number.to_le_bytes());
    }
    expected.extend([2, 0, 2, 0, 0, 2, 0, 0]);
    expected.extend([0; 16]);
    expected.extend(b"vm-images");
    expected.extend([0; 55]);
    expected.extend((1u64 << 30).to_le_bytes());
    expected.extend([16, 0, 0, 0, 0, 0, 0, 0]);
    for (kind, copy, offset, len) in [
        (1u16, 0u16, 4096, 4096),
        (1, 1, 12 * MIB - 4096, 4096),
        (2, 0, 8192, 4096),
        (2, 1, 12 * MIB - 8192, 4096),
        (3, 0, 65536, 65536),
        (3, 1, 11 * MIB, 65536),
        (4, 0, MIB, 4 * MIB),
        (4, 1, 6 * MIB, 4 * MIB),
        (5, 0, 5 * MIB, 131072),
        (5, 1, 10 * MIB, 131072),
        (6, 0, 12 * MIB, 1 << 30),
    ] {
        expected.extend(kind.to_le_bytes());
        expected.extend(copy.to_le_bytes());
        expected.extend([0; 4]);
        expected.extend(offset.to_le_bytes());
        expected.extend(u64::to_le_bytes(len));
    }
    expected.resize(RECORD_BYTES, 0);
    reseal(&mut expected, FRAME);
    assert_eq!(encode(&sample(), 5, 0).1[..], expected);
}

#[test]
fn damaged() {
    let (at, bytes) = encode(&sample(), 1, 1);
    let accepts = |bytes: &[u8]| Superblock::parse::<Host>(at, bytes).is_ok();
    refuses_bit_flips(&bytes, accepts);
    for len in 0..RECORD_BYTES {
        assert!(!accepts(&bytes[..len]));
    }
}

#[test]
fn refused_fields() {
    let (at, good) = encode(&sample(), 1, 0);
    let with = |offset: usize, new: &[u8]| {
        Superblock::parse::<Host>(at, &forged(&good, FRAME, offset, new)).unwrap_err()
    };
    assert_eq!(with(FRAME, &[3]), RecordError::Field("state"));
    assert_eq!(with(FRAME + 2, &[33]), RecordError::Field("member id"));
    assert_eq!(
        with(FRAME + 4, &[0, 3]),
        RecordError::Field("logical block size")
    );
    assert_eq!(
        with(FRAME + 24, b"/"),
        RecordError::Name(NameError::BadByte(b'/'))
    );
    assert_eq!(
        with(FRAME + 88, &[1]),
        RecordError::Geometry(GeometryError::Unaligned((1 << 30) + 1))
    );
    assert_eq!(
        with(FRAME + 96, &[99]),
        RecordError::Geometry(GeometryError::ChunkShift(99))
    );
    assert_eq!(with(FRAME + 97, &[1]), RecordError::Reserved);
    assert_eq!(with(FRAME + 488, &[1]), RecordError::Reserved);

    let entry = |index: usize| AREAS + index * 24;
    let areas = |at: usize, new: u64| with(at, &new.to_le_bytes());
    let wrong = RecordError::Areas;
    assert_eq!(with(entry(0), &[7]), wrong("an area of unknown kind"));
    assert_eq!(with(entry(0), &[0]), wrong("an area of unknown kind"));
    assert_eq!(with(entry(0) + 2, &[2]), wrong("an area of unknown kind"));
    assert_eq!(with(entry(0) + 4, &[1]), wrong("an area of unknown kind"));
    assert_eq!(with(entry(15) + 8, &[1]), wrong("an area of unknown kind"));
    assert_eq!(with(entry(10) + 2, &[1]), wrong("an area of unknown kind"));
    assert_eq!(with(entry(0), &[0; 24]), wrong("an area is missing"));
    assert_eq!(with(entry(0) + 2, &[1]), wrong("an area is missing"));
    assert_eq!(with(entry(15), &[6]), wrong("an area is there twice"));
    assert_eq!(
        areas(entry(10) + 8, (12 << 20) + 4096),
        wrong("the data area does not fit the volume")
    );
    assert_eq!(
        areas(entry(10) + 8, 0u64.wrapping_sub(1 << 20)),
        wrong("the data area does not fit the volume")
    );
    assert_eq!(
        areas(entry(10) + 16, 4096),
        wrong("the data area does not fit the volume")
    );
    assert_eq!(
        areas(entry(6) + 8, u64::MAX - 4095),
        wrong("an area has no end")
    );
    assert_eq!(areas(entry(6) + 8, 513), wrong("an area is not aligned"));
    assert_eq!(areas(entry(6) + 16, 0), wrong("an area is not aligned"));
    // Offset and length alike.
    let [offset, len] = [(1u64 << 20) + 512, (4 << 20) + 512].map(u64::to_le_bytes);
    assert_eq!(
        with(entry(6) + 8, &[offset, len].concat()),
        wrong("an area is not aligned")
    );
    assert_eq!(
        areas(entry(6) + 8, 0),
        wrong("an area is outside the metadata")
    );
    assert_eq!(
        areas(entry(7) + 8, 9 << 20),
        wrong("an area is outside the metadata")
    );
    assert_eq!(
        areas(entry(6) + 16, (4 << 20) + 4096),
        wrong("two areas overlap")
    );
    assert_eq!(
        areas(entry(2) + 16, 8192),
        wrong("a record has the wrong size")
    );
    assert_eq!(
        areas(entry(8) + 16, 4096),
        wrong("the bitmaps have the wrong size")
    );
    assert_eq!(
        areas(entry(0) + 8, 12288),
        wrong("a superblock is not where it must be")
    );
}

#[test]
fn encoder_refuses() {
    let refused = |superblock: Superblock| {
        superblock
            .encode::<Host>(1, 0, &mut [0; RECORD_BYTES])
            .unwrap_err()
    };
    assert_eq!(
        refused(Superblock {
            store: Uuid::NIL,
            ..sample()
        }),
        RecordError::Field("store UUID")
    );
    let block = Superblock {
        logical_block: 8192,
        ..sample()
    };
    assert_eq!(refused(block), RecordError::Field("logical block size"));
    let third = sample().encode::<Host>(1, 2, &mut [0; RECORD_BYTES]);
    assert_eq!(third, Err(RecordError::Field("copy number")));
}

proptest! {
    #[test]
    fn round_trip(superblock in any_superblock(), sequence: u64, copy in 0u16..2) {
        let (at, bytes) = encode(&superblock, sequence, copy);
        let record = superblock;
        prop_assert_eq!(Superblock::parse::<Host>(at, &bytes), Ok(Versioned { sequence, record }));
    }

    /// Whatever is accepted stays the same when written again.
    #[test]
    fn accepted_is_stable(superblock in any_superblock(), at in 0usize..600, byte: u8, copy in 0u16..2) {
        let (place, bytes) = encode(&superblock, 1, copy);
        if let Ok(v) = Superblock::parse::<Host>(place, &forged(&bytes, FRAME, at, &[byte])) {
            let (place, bytes) = encode(&v.record, v.sequence, copy);
            prop_assert_eq!(Superblock::parse::<Host>(place, &bytes), Ok(v));
        }
    }
}
