// SPDX-License-Identifier: GPL-2.0

use super::*;

const FRAME: usize = 64;
const AREAS: usize = FRAME + 104;
const FLAGS: usize = AREAS + 16 * 24 + 24;

prop_compose! {
    fn any_superblock()(
        ready: bool,
        store in any_uuid(),
        pool in prop_oneof![Just(Uuid::NIL), any_uuid()],
        name in any_name(),
        member in any_member(),
        block in 9u32..=12,
        geometry in any_geometry(),
        uuid in any_uuid(),
        starts: u64,
        kind in 0..3,
        secret: bool,
    ) -> Superblock {
        let state = if ready { StoreState::Ready } else { StoreState::Initialising };
        let external = kind > 0;
        let layout = if external {
            Layout::compute_external(u64::MAX, u64::MAX, geometry).unwrap()
        } else {
            Layout::compute(u64::MAX, geometry).unwrap()
        };
        let starts = if kind == 2 { starts & !1 } else { starts };
        let metadata = external.then_some(MetadataDevice { uuid, starts });
        let superblock = Superblock {
            role: DeviceRole::Data, state, store, pool, name, member, logical_block: 1 << block, layout, metadata, secret,
        };
        if kind == 2 { superblock.of_metadata().unwrap() } else { superblock }
    }
}

fn sample() -> Superblock {
    let geometry = Geometry::new(1 << 30, 16).unwrap();
    Superblock {
        role: DeviceRole::Data,
        state: StoreState::Ready,
        store: Uuid([7; 16]),
        pool: Uuid::NIL,
        name: "vm-images".parse().unwrap(),
        member: member(2),
        logical_block: 512,
        layout: Layout::compute(2 << 30, geometry).unwrap(),
        metadata: None,
        secret: false,
    }
}

/// The same with a metadata device: the superblock of the device with the data.
fn external() -> Superblock {
    let layout = sample().layout;
    Superblock {
        pool: Uuid([3; 16]),
        layout: Layout::compute_external(2 << 30, 1 << 30, layout.geometry()).unwrap(),
        metadata: Some(MetadataDevice {
            uuid: Uuid([9; 16]),
            starts: 4,
        }),
        ..sample()
    }
}

fn encode(superblock: &Superblock, sequence: u64, copy: u16) -> (Place, [u8; RECORD_BYTES]) {
    let mut buf = [0x55; RECORD_BYTES];
    let at = superblock.encode::<Host>(sequence, copy, &mut buf).unwrap();
    assert_eq!(at, superblock.places().unwrap()[usize::from(copy)]);
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

    // All that is different with a secret.
    expected[FLAGS] = 1;
    reseal(&mut expected, FRAME);
    let secret = Superblock {
        secret: true,
        ..sample()
    };
    assert_eq!(encode(&secret, 5, 0).1[..], expected);
}

/// Both superblocks of a store with a metadata device: the table of areas is the same, and what follows it.
#[test]
fn bytes_on_two_disks() {
    const MIB: u64 = 1 << 20;
    let mut tail = Vec::new();
    for (kind, copy, offset, len) in [
        (1u16, 0u16, 4096, 4096),
        (1, 1, MIB - 4096, 4096),
        (2, 0, 8192, 4096),
        (2, 1, 12 * MIB - 8192, 4096),
        (3, 0, 65536, 65536),
        (3, 1, 11 * MIB, 65536),
        (4, 0, MIB, 4 * MIB),
        (4, 1, 6 * MIB, 4 * MIB),
        (5, 0, 5 * MIB, 131072),
        (5, 1, 10 * MIB, 131072),
        (6, 0, MIB, 1 << 30),
        (7, 0, 4096, 4096),
        (7, 1, 12 * MIB - 4096, 4096),
    ] {
        tail.extend(kind.to_le_bytes());
        tail.extend(copy.to_le_bytes());
        tail.extend([0; 4]);
        tail.extend(offset.to_le_bytes());
        tail.extend(u64::to_le_bytes(len));
    }
    tail.extend([0; 3 * 24]);
    tail.extend([9; 16]);
    tail.extend([4, 0, 0, 0, 0, 0, 0, 0]);
    tail.resize(RECORD_BYTES - AREAS, 0);
    for (superblock, kind, pool) in [
        (external(), 1, 3),
        (external().of_metadata().unwrap(), 7, 0),
    ] {
        let (at, bytes) = encode(&superblock, 5, 0);
        assert_eq!(at, FIRST_SUPERBLOCK);
        assert_eq!(bytes[8..12], [kind, 0, 1, 0]);
        assert_eq!(bytes[24..40], [7; 16]);
        assert_eq!(bytes[FRAME..FRAME + 8], [2, 0, 2, 0, 0, 2, 0, 0]);
        assert_eq!(bytes[FRAME + 8..FRAME + 24], [pool; 16]);
        assert_eq!(bytes[AREAS..], tail);
    }
    // A version that knows of no metadata device finds an area of a kind that it does not know: format 1 refuses that.
    assert_eq!(external().places(), Some(external().layout.superblock()));
    assert_eq!(sample().of_metadata(), None);
}

#[test]
fn damaged() {
    let (at, bytes) = encode(&sample(), 1, 1);
    let accepts = |bytes: &[u8]| Superblock::parse::<Host>(DeviceRole::Data, at, bytes).is_ok();
    refuses_bit_flips(&bytes, accepts);
    for len in 0..RECORD_BYTES {
        assert!(!accepts(&bytes[..len]));
    }
}

#[test]
fn refused_fields() {
    let (at, good) = encode(&sample(), 1, 0);
    let with = |offset: usize, new: &[u8]| {
        let bytes = forged(&good, FRAME, offset, new);
        Superblock::parse::<Host>(DeviceRole::Data, at, &bytes).unwrap_err()
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
    // Of the metadata device, which it has not.
    assert_eq!(with(FRAME + 488, &[1]), RecordError::Reserved);
    assert_eq!(with(FRAME + 504, &[1]), RecordError::Reserved);
    for flags in [2u32, 3, 1 << 31, u32::MAX] {
        assert_eq!(
            with(FLAGS, &flags.to_le_bytes()),
            RecordError::Field("flags")
        );
    }
    assert_eq!(with(FLAGS + 4, &[1]), RecordError::Reserved);

    let entry = |index: usize| AREAS + index * 24;
    let areas = |at: usize, new: u64| with(at, &new.to_le_bytes());
    let wrong = RecordError::Areas;
    assert_eq!(with(entry(0), &[8]), wrong("an area of unknown kind"));
    assert_eq!(with(entry(0), &[7]), wrong("an area is missing"));
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
fn refused_on_two_disks() {
    let data = encode(&external(), 1, 0);
    let metadata = encode(&external().of_metadata().unwrap(), 1, 0);
    let second = encode(&external().of_metadata().unwrap(), 1, 1);
    let parse = |role, (at, bytes): &(Place, [u8; RECORD_BYTES])| {
        Superblock::parse::<Host>(role, *at, bytes).map(|v| v.record)
    };
    assert_eq!(parse(DeviceRole::Data, &data), Ok(external()));
    let of_metadata = external().of_metadata().unwrap();
    assert_eq!(of_metadata.role, DeviceRole::Metadata);
    assert_eq!(
        parse(DeviceRole::Metadata, &metadata),
        Ok(of_metadata.clone())
    );
    assert_eq!(parse(DeviceRole::Metadata, &second), Ok(of_metadata));
    // One is not taken for the other, nor that of a store with all on it for either.
    let kind = |found, expected| Err(RecordError::Kind { found, expected });
    assert_eq!(
        parse(DeviceRole::Metadata, &data),
        kind(1, RecordKind::MetadataSuperblock)
    );
    assert_eq!(
        parse(DeviceRole::Metadata, &encode(&sample(), 1, 0)),
        kind(1, RecordKind::MetadataSuperblock)
    );
    assert_eq!(
        parse(DeviceRole::Data, &metadata),
        kind(7, RecordKind::Superblock)
    );

    let with = |(at, good): &(Place, [u8; RECORD_BYTES]), role, offset: usize, new: &[u8]| {
        let bytes = forged(good, FRAME, offset, new);
        Superblock::parse::<Host>(role, *at, &bytes).map(drop)
    };
    let on_data = |offset, new: &[u8]| with(&data, DeviceRole::Data, offset, new);
    let on_metadata = |offset, new: &[u8]| with(&metadata, DeviceRole::Metadata, offset, new);
    let field = |name| Err(RecordError::Field(name));
    let wrong = |what| Err(RecordError::Areas(what));
    assert_eq!(on_data(FRAME + 488, &[0; 16]), field("metadata UUID"));
    assert_eq!(on_metadata(FRAME + 488, &[0; 16]), field("metadata UUID"));
    assert_eq!(on_data(FRAME + 504, &[5]), Ok(()));
    assert_eq!(on_metadata(FRAME + 504, &[5]), field("number of starts"));
    assert_eq!(on_metadata(FRAME + 8, &[1]), field("pool UUID"));
    assert_eq!(on_data(FLAGS + 4, &[1]), Err(RecordError::Reserved));

    let entry = |index: usize| AREAS + index * 24;
    let areas = |at: usize, new: u64| on_data(at, &new.to_le_bytes());
    // The superblock of the metadata device.
    assert_eq!(on_data(entry(11), &[0; 24]), wrong("an area is missing"));
    assert_eq!(on_data(entry(12), &[0; 24]), wrong("an area is missing"));
    assert_eq!(on_data(entry(13), &[7]), wrong("an area is there twice"));
    assert_eq!(
        on_data(entry(12) + 2, &[2]),
        wrong("an area of unknown kind")
    );
    // Without it, all would be on one device.
    assert_eq!(
        on_data(entry(11), &[0; 48]),
        wrong("an area is outside the metadata")
    );
    assert_eq!(
        areas(entry(11) + 8, 12288),
        wrong("a superblock is not where it must be")
    );
    assert_eq!(
        areas(entry(0) + 8, 12288),
        wrong("a superblock is not where it must be")
    );
    let end = 12 << 20;
    assert_eq!(
        areas(entry(12) + 8, end - 8192 - 4096),
        wrong("an area is outside the metadata")
    );
    assert_eq!(
        areas(entry(12) + 8, u64::MAX - 4095),
        wrong("an area has no end")
    );
    assert_eq!(areas(entry(12) + 8, end), Ok(()));
    assert_eq!(
        areas(entry(12) + 16, 8192),
        wrong("a record has the wrong size")
    );
    assert_eq!(areas(entry(11) + 16, 8192), wrong("two areas overlap"));
    // Of the device with the data: only its superblock is there, and has to be before the data.
    assert_eq!(
        areas(entry(1) + 8, 1 << 20),
        wrong("an area is outside the metadata")
    );
    assert_eq!(areas(entry(1) + 8, 4096), wrong("two areas overlap"));
    // On the metadata device they may not overlap either, nor go behind its last superblock.
    assert_eq!(
        areas(entry(3) + 8, end),
        wrong("an area is outside the metadata")
    );
    assert_eq!(areas(entry(3) + 8, end - 4096), wrong("two areas overlap"));
    assert_eq!(areas(entry(2) + 8, 4096), wrong("two areas overlap"));
    // A superblock of a metadata device, in a table that has none.
    let mut inside = encode(&sample(), 1, 0);
    inside.1[8] = 7;
    assert_eq!(
        with(&inside, DeviceRole::Metadata, 8, &[7]),
        wrong("the superblock is not where it was read")
    );
}

/// `data` with so many starts, and the superblock of its metadata device with so many: how they go together.
fn started(data: u64, metadata: u64) -> Result<(), PartnerError> {
    let with = |starts| Superblock {
        metadata: external()
            .metadata
            .map(|device| MetadataDevice { starts, ..device }),
        ..external()
    };
    with(data).check_metadata(&with(metadata).of_metadata().unwrap())
}

#[test]
fn partners() {
    let data = external();
    let good = data.of_metadata().unwrap();
    let check = |metadata: Superblock| data.check_metadata(&metadata);
    assert_eq!(check(good.clone()), Ok(()));
    assert_eq!(check(data.clone()), Err(PartnerError::Role));
    assert_eq!(good.check_metadata(&good), Err(PartnerError::Role));
    assert_eq!(sample().check_metadata(&good), Err(PartnerError::Role));
    let none = Superblock {
        metadata: None,
        ..good.clone()
    };
    assert_eq!(check(none), Err(PartnerError::Role));
    let other = Superblock {
        store: Uuid([8; 16]),
        member: member(5),
        name: "other".parse().unwrap(),
        ..good.clone()
    };
    let error = check(other).unwrap_err();
    assert_eq!(
        error,
        PartnerError::Store {
            pool: "other".parse().unwrap(),
            member: member(5),
            store: Uuid([8; 16]),
        }
    );
    use std::string::ToString;
    assert_eq!(
        error.to_string(),
        "it has the metadata of another store, 08080808-0808-0808-0808-080808080808, member 5 of pool other"
    );
    let device = MetadataDevice {
        uuid: Uuid([1; 16]),
        starts: 4,
    };
    let another = Superblock {
        metadata: Some(device),
        ..good.clone()
    };
    assert_eq!(check(another), Err(PartnerError::Device));
    let geometry = Geometry::new(1 << 30, 17).unwrap();
    let layout = Superblock {
        layout: Layout::compute_external(2 << 30, 1 << 30, geometry).unwrap(),
        ..good.clone()
    };
    assert_eq!(check(layout), Err(PartnerError::Device));
    let unfinished = Superblock {
        state: StoreState::Initialising,
        ..good
    };
    assert_eq!(check(unfinished), Err(PartnerError::Unfinished));
    for error in [
        PartnerError::Role,
        PartnerError::Device,
        PartnerError::Unfinished,
        PartnerError::Old,
        PartnerError::OldData,
    ] {
        assert!(error.to_string().len() > 20);
    }
}

#[test]
fn older_copies_are_known() {
    assert_eq!(started(0, 0), Ok(()));
    assert_eq!(started(4, 4), Ok(()));
    assert_eq!(started(4, 2), Err(PartnerError::Old));
    assert_eq!(started(4, 6), Err(PartnerError::OldData));
    // A start that was interrupted before and after it was noted on the metadata device.
    assert_eq!(started(5, 4), Ok(()));
    assert_eq!(started(5, 6), Ok(()));
    assert_eq!(started(5, 2), Err(PartnerError::Old));
    assert_eq!(started(5, 8), Err(PartnerError::OldData));
    assert_eq!(started(u64::MAX, u64::MAX - 1), Ok(()));
    assert_eq!(started(1, 0), Ok(()));
}

/// Each step of a start may be the last one before a power cut; the next start comes through.
#[test]
fn starts() {
    let device = |starts| MetadataDevice {
        uuid: Uuid([9; 16]),
        starts,
    };
    for (data, metadata) in [(4, 4), (5, 4), (5, 6)] {
        assert_eq!(started(data, metadata), Ok(()));
        let starting = device(data).starting();
        assert_eq!(starting, device(5));
        assert_eq!(started(starting.starts, metadata), Ok(()));
        let next = device(data).started().unwrap();
        assert_eq!(next, device(6));
        assert_eq!(started(starting.starts, next.starts), Ok(()));
        assert_eq!(started(next.starts, next.starts), Ok(()));
        assert_eq!(started(next.starts, 4), Err(PartnerError::Old));
        assert_eq!(started(4, next.starts), Err(PartnerError::OldData));
    }
    assert_eq!(device(u64::MAX - 1).started(), None);
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
    // What the layout says and what is said of the metadata device must be one thing.
    let no_device = Superblock {
        metadata: None,
        ..external()
    };
    assert_eq!(refused(no_device), RecordError::Field("metadata device"));
    let no_layout = Superblock {
        layout: sample().layout,
        ..external()
    };
    assert_eq!(refused(no_layout), RecordError::Field("metadata device"));
    let no_metadata = Superblock {
        role: DeviceRole::Metadata,
        ..sample()
    };
    assert_eq!(refused(no_metadata), RecordError::Field("metadata device"));
    let third = sample().encode::<Host>(1, 2, &mut [0; RECORD_BYTES]);
    assert_eq!(third, Err(RecordError::Field("copy number")));
}

proptest! {
    #[test]
    fn round_trip(superblock in any_superblock(), sequence: u64, copy in 0u16..2) {
        let (at, bytes) = encode(&superblock, sequence, copy);
        let role = superblock.role;
        let record = superblock;
        prop_assert_eq!(Superblock::parse::<Host>(role, at, &bytes), Ok(Versioned { sequence, record }));
    }

    /// Whatever is accepted stays the same when written again.
    #[test]
    fn accepted_is_stable(superblock in any_superblock(), at in 0usize..600, byte: u8, copy in 0u16..2) {
        let (place, bytes) = encode(&superblock, 1, copy);
        let role = superblock.role;
        if let Ok(v) = Superblock::parse::<Host>(role, place, &forged(&bytes, FRAME, at, &[byte])) {
            let (place, bytes) = encode(&v.record, v.sequence, copy);
            prop_assert_eq!(Superblock::parse::<Host>(role, place, &bytes), Ok(v));
        }
    }
}
