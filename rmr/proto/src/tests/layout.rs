// SPDX-License-Identifier: GPL-2.0

use super::*;

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

fn areas(layout: &Layout) -> Vec<Area> {
    let record = |place: Place| Area {
        offset: place.offset,
        len: RECORD_BYTES as u64,
    };
    let mut all = std::vec![
        Area {
            offset: 0,
            len: 4096
        },
        layout.data()
    ];
    all.extend(layout.superblock().map(record));
    all.extend(layout.epoch().map(record));
    all.extend(layout.member_table());
    all.extend(layout.activity_log());
    for id in MemberId::all() {
        all.extend(layout.bitmap(id));
    }
    all
}

fn check(layout: &Layout, geometry: Geometry) {
    let mut all = areas(layout);
    all.sort_by_key(|area| area.offset);
    for pair in all.windows(2) {
        assert!(pair[0].end().unwrap() <= pair[1].offset, "{pair:?}");
    }
    for area in &all {
        assert_eq!((area.offset % 4096, area.len % 4096), (0, 0));
        assert_ne!(area.len, 0);
    }
    let data = layout.data();
    assert_eq!(data.len, geometry.size());
    assert_eq!(data.offset % MIB, 0);
    assert_eq!(data.end(), Some(layout.device_bytes()));
    assert_eq!(layout.superblock()[0], FIRST_SUPERBLOCK);
    assert_eq!(layout.superblock()[1].offset + 4096, data.offset);
    assert_eq!(layout.metadata_bytes(), data.offset);
    for id in MemberId::all() {
        for copy in layout.bitmap(id) {
            assert_eq!(copy.len, layout.bitmap_pages() * 4096);
        }
    }
    let pages = layout.bitmap_pages();
    assert!(pages * BITMAP_PAGE_CHUNKS >= geometry.chunks());
    assert!((pages - 1) * BITMAP_PAGE_CHUNKS < geometry.chunks());
    let inside = |places: [Place; 2], areas: [Area; 2]| {
        for (copy, (at, area)) in places.into_iter().zip(areas).enumerate() {
            assert_eq!(usize::from(at.copy), copy);
            assert!(at.offset >= area.offset && at.offset + 4096 <= area.end().unwrap());
        }
    };
    let (first, last) = (member(1), member(32));
    for (id, page) in [(first, 0), (first, pages - 1), (last, pages - 1)] {
        let places = layout.bitmap_page(id, page).unwrap();
        inside(places, layout.bitmap(id));
        for (at, area) in places.into_iter().zip(layout.bitmap(id)) {
            assert_eq!(at.offset, area.offset + page * 4096);
        }
    }
    for page in 0..LOG_PAGES {
        inside(layout.log_page(page).unwrap(), layout.activity_log());
    }
    inside(layout.unreadable(), layout.activity_log());
    assert!((0..LOG_PAGES).all(|page| layout.log_page(page) != Some(layout.unreadable())));
    assert_eq!(layout.bitmap_page(first, pages), None);
    assert_eq!(layout.log_page(LOG_PAGES), None);
}

#[test]
fn of_all_sizes() {
    for size in [
        4096,
        MIB,
        4 * MIB,
        16 * MIB,
        64 * MIB + 4096,
        1 << 30,
        TIB,
        16 * TIB,
        MAX_VOLUME_BYTES,
    ] {
        for shift in [Geometry::MIN_CHUNK_SHIFT, 16, Geometry::MAX_CHUNK_SHIFT] {
            let geometry = Geometry::new(size, shift).unwrap();
            let layout = Layout::compute(u64::MAX, geometry).unwrap();
            check(&layout, geometry);
            let exact = layout.device_bytes();
            assert_eq!(Layout::compute(exact, geometry), Ok(layout));
            assert!(matches!(
                Layout::compute(exact - 1, geometry),
                Err(LayoutError::TooSmall { device, needed, largest })
                    if device == exact - 1 && needed == exact && largest < size
            ));
        }
    }
}

#[test]
fn the_largest_is_the_largest() {
    for device in [
        16 * MIB,
        17 * MIB + 512,
        1 << 30,
        TIB + 12345 * 512,
        16 * TIB,
        u64::MAX,
    ] {
        for shift in [Geometry::MIN_CHUNK_SHIFT, 16, Geometry::MAX_CHUNK_SHIFT] {
            let largest = Layout::largest(device, shift).unwrap();
            let geometry = Geometry::new(largest, shift).unwrap();
            let layout = Layout::compute(device, geometry).unwrap();
            // On the largest devices there are too many to try each in a test.
            if device <= 16 * TIB {
                let second = layout.superblock()[1];
                assert!(Layout::second_superblocks(device).any(|at| at == second));
            }
            if let Ok(larger) = Geometry::new(largest + 4096, shift) {
                assert!(matches!(
                    Layout::compute(device, larger),
                    Err(LayoutError::TooSmall { largest: l, .. }) if l == largest
                ));
            }
        }
    }
    assert_eq!(Layout::largest(0, 16), None);
    assert_eq!(Layout::largest(12 * MIB, 16), None);
    assert_eq!(Layout::largest(12 * MIB + 4096, 16), Some(4096));
    assert_eq!(Layout::largest(u64::MAX, 63), None);
    assert_eq!(Layout::largest(u64::MAX, 26), Some(MAX_VOLUME_BYTES));
}

#[test]
fn error_texts() {
    use std::string::ToString;
    let geometry = Geometry::new(64 * MIB, 16).unwrap();
    let error = Layout::compute(64 * MIB, geometry).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the device has 67108864 bytes but 79691776 are needed; at most a volume of 54525952 bytes \
         (106496 sectors) fits"
    );
    let error = Layout::compute(MIB, geometry).unwrap_err();
    assert!(error
        .to_string()
        .ends_with("it is too small for any volume"));
    let error = Layout::compute_external(64 * MIB + 5000, TIB, geometry).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the device has 67113864 bytes but 68157440 are needed; at most a volume of 66064384 bytes \
         (129032 sectors) fits"
    );
    let error = Layout::compute_external(MIB + 4095, TIB, geometry).unwrap_err();
    assert!(error
        .to_string()
        .ends_with("it is too small for any volume"));
    let error = Layout::compute_external(TIB, 12 * MIB - 1, geometry).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the device has 12582911 bytes but 12582912 are needed for the metadata of a volume of this size \
         and chunk size"
    );
}

/// What the begin of a store with internal metadata is, a metadata device is as a whole.
fn check_external(layout: &Layout, geometry: Geometry) {
    let inside = Layout::compute(u64::MAX, geometry).unwrap();
    assert_eq!((inside.is_external(), layout.is_external()), (false, true));
    assert_eq!(inside.metadata_superblock(), None);
    assert_eq!(layout.metadata_superblock(), Some(inside.superblock()));
    assert_eq!(layout.metadata_bytes(), inside.metadata_bytes());
    assert_eq!(layout.geometry(), geometry);
    assert_eq!(layout.epoch(), inside.epoch());
    assert_eq!(layout.member_table(), inside.member_table());
    assert_eq!(layout.activity_log(), inside.activity_log());
    assert_eq!(layout.unreadable(), inside.unreadable());
    for id in MemberId::all() {
        assert_eq!(layout.bitmap(id), inside.bitmap(id));
    }
    let len = geometry.size();
    assert_eq!(layout.data(), Area { offset: MIB, len });
    let [first, second] = layout.superblock();
    assert_eq!(first, FIRST_SUPERBLOCK);
    assert_eq!((second.offset, second.copy), (MIB - 4096, 1));
    assert_eq!(layout.device_bytes(), MIB + geometry.size());
}

#[test]
fn external_of_all_sizes() {
    for size in [4096, 64 * MIB + 4096, TIB, MAX_VOLUME_BYTES] {
        for shift in [Geometry::MIN_CHUNK_SHIFT, 16, Geometry::MAX_CHUNK_SHIFT] {
            let geometry = Geometry::new(size, shift).unwrap();
            let layout = Layout::compute_external(u64::MAX, u64::MAX, geometry).unwrap();
            check_external(&layout, geometry);
            let (data, metadata) = (layout.device_bytes(), layout.metadata_bytes());
            assert_eq!(
                Layout::compute_external(data, metadata, geometry),
                Ok(layout.clone())
            );
            assert_eq!(
                Layout::compute_external(data - 1, metadata, geometry),
                Err(LayoutError::TooSmall {
                    device: data - 1,
                    needed: data,
                    largest: size - 4096,
                })
            );
            let too_small = Err(LayoutError::MetadataTooSmall {
                device: metadata - 1,
                needed: metadata,
            });
            assert_eq!(layout.check_metadata_fits(metadata - 1), too_small);
            assert_eq!(
                Layout::compute_external(data, metadata - 1, geometry).map(drop),
                too_small
            );
            // That with both needs no other device.
            let inside = Layout::compute(u64::MAX, geometry).unwrap();
            assert_eq!(inside.check_metadata_fits(0), Ok(()));
        }
    }
}

#[test]
fn places_to_search() {
    assert_eq!(Layout::second_superblocks(0).count(), 0);
    // Of a store with external metadata.
    let first = |device| Layout::second_superblocks(device).collect::<Vec<_>>();
    let external = Place {
        offset: MIB - 4096,
        copy: 1,
    };
    assert_eq!(first(MIB - 1), []);
    assert_eq!(first(MIB), [external]);
    assert_eq!(first(12 * MIB - 1), [external]);
    let internal = Place {
        offset: 12 * MIB - 4096,
        copy: 1,
    };
    assert_eq!(first(12 * MIB), [external, internal]);
    assert!(Layout::second_superblocks(u64::MAX).next().is_some());
    // One 504th, and a few for what is there in any case.
    assert_eq!(Layout::second_superblocks(16 * TIB).count(), 33294);
    assert!(Layout::second_superblocks(16 * TIB)
        .all(|at| at.copy == 1 && (at.offset + 4096) % MIB == 0));
}

proptest! {
    #[test]
    fn of_any_geometry(geometry in any_geometry(), device: u64) {
        check(&Layout::compute(u64::MAX, geometry).unwrap(), geometry);
        match Layout::compute(device, geometry) {
            Ok(layout) => {
                prop_assert!(layout.device_bytes() <= device);
                let second = layout.superblock()[1];
                let found = Layout::second_superblocks(device).take_while(|at| at.offset <= second.offset);
                // Not all of them: there are too many on the largest devices to try each in a test.
                if device < 1 << 45 {
                    prop_assert_eq!(found.last(), Some(second));
                }
            }
            Err(LayoutError::TooSmall { largest, .. }) => prop_assert!(largest < geometry.size()),
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
