// SPDX-License-Identifier: GPL-2.0

//! Pages of the activity log, of bitmaps and of the list of unreadable sectors.

use super::*;

const FRAME: usize = 64;
const STORE: Uuid = Uuid([7; 16]);
const AT: Place = Place {
    offset: 1 << 30,
    copy: 1,
};

fn log(slots: &[Option<u64>]) -> [u8; RECORD_BYTES] {
    let mut buf = [0x55; RECORD_BYTES];
    let slots = slots.iter().copied();
    LogPage::encode::<Host>(STORE, 11, AT, slots, &mut buf).unwrap();
    buf
}

fn unreadable(blocks: &[Option<BadBlock>]) -> [u8; RECORD_BYTES] {
    let mut buf = [0x55; RECORD_BYTES];
    let blocks = blocks.iter().copied();
    UnreadablePage::encode::<Host>(STORE, 11, AT, blocks, &mut buf).unwrap();
    buf
}

fn bad(block: u64, sectors: u8) -> BadBlock {
    BadBlock { block, sectors }
}

fn bitmap(words: &[u64]) -> [u8; RECORD_BYTES] {
    let mut buf = [0x55; RECORD_BYTES];
    let words = words.iter().copied();
    BitmapPage::encode::<Host>(STORE, 11, AT, words, &mut buf).unwrap();
    buf
}

fn dirty(of: u32, page: u64, words: &[u64]) -> Vec<u8> {
    let mut buf = [0x55; REPLY_BYTES];
    let words = words.iter().copied();
    DirtyPage::encode::<Host>(member(of), page, words, &mut buf)
        .unwrap()
        .to_vec()
}

fn expected(kind: u8, words: &[u64]) -> Vec<u8> {
    let mut expected = Vec::new();
    expected.extend(b"rmr-disk");
    expected.extend([kind, 0, 1, 0]);
    expected.extend(4096u32.to_le_bytes());
    expected.extend([0; 4]);
    expected.extend([1, 0, 0, 0]);
    expected.extend([7; 16]);
    for number in [1u64 << 30, 11, 0].iter().chain(words) {
        expected.extend(number.to_le_bytes());
    }
    expected.resize(RECORD_BYTES, 0);
    reseal(&mut expected, FRAME);
    expected
}

#[test]
fn bytes_on_disk() {
    assert_eq!(crate::MAX_LOG_EXTENTS, 1024);
    assert_eq!(log(&[None, Some(0), Some(9)])[..], expected(4, &[0, 1, 10]));
    let list = [None, Some(bad(9, 0x81))];
    assert_eq!(unreadable(&list)[..], expected(6, &[0, 9 << 16 | 0x81]));
    assert_eq!(bitmap(&[5, 0, 1 << 63])[..], expected(5, &[5, 0, 1 << 63]));
}

#[test]
fn relocated() {
    let to = Place {
        offset: 8192,
        copy: 0,
    };
    let mut page = bitmap(&[5]);
    relocate::<Host>(AT, to, &mut page).unwrap();
    let words = [5].into_iter();
    let mut right = [0; RECORD_BYTES];
    BitmapPage::encode::<Host>(STORE, 11, to, words, &mut right).unwrap();
    assert_eq!(page, right);
    let place = RecordError::Place { read: AT, said: to };
    assert_eq!(relocate::<Host>(AT, to, &mut page), Err(place));
    let third = Place { copy: 2, ..to };
    assert_eq!(
        relocate::<Host>(to, third, &mut page),
        Err(RecordError::Field("copy number"))
    );
    assert_eq!(
        relocate::<Host>(to, AT, &mut [0; RECORD_BYTES]),
        Err(RecordError::Magic)
    );
}

#[test]
fn bytes_on_the_wire() {
    let mut expected = Vec::new();
    expected.extend(b"rmr-rep\0");
    expected.extend([1, 0, 32, 0]);
    expected.extend(4072u32.to_le_bytes());
    expected.extend([0; 8]);
    expected.extend([3, 0, 0, 0, 0, 0, 0, 0]);
    for number in [9u64, 5, 1 << 63] {
        expected.extend(number.to_le_bytes());
    }
    expected.resize(4072, 0);
    reseal(&mut expected, 24);
    assert_eq!(dirty(3, 9, &[5, 1 << 63]), expected);
}

#[test]
fn damaged() {
    let bytes = log(&[Some(9)]);
    refuses_bit_flips(&bytes, |b| LogPage::parse::<Host>(STORE, AT, b).is_ok());
    let bytes = bitmap(&[9]);
    refuses_bit_flips(&bytes, |b| BitmapPage::parse::<Host>(STORE, AT, b).is_ok());
    let bytes = unreadable(&[Some(bad(9, 1))]);
    refuses_bit_flips(&bytes, |b| {
        UnreadablePage::parse::<Host>(STORE, AT, b).is_ok()
    });
    let bytes = dirty(3, 9, &[5]);
    let accepts = |b: &[u8]| DirtyPage::parse::<Host>(b).is_ok();
    refuses_bit_flips(&bytes, accepts);
    refuses_truncation(&bytes, 24, accepts);
}

#[test]
fn refused_fields() {
    let good = log(&[Some(9)]);
    let parse = |bytes: &[u8]| {
        LogPage::parse::<Host>(STORE, AT, bytes)
            .map(|v| v.sequence)
            .unwrap_err()
    };
    let extents = 1u64 << 41;
    let last = forged(&good, FRAME, FRAME, &extents.to_le_bytes());
    let v = LogPage::parse::<Host>(STORE, AT, &last).unwrap();
    assert_eq!(v.record.slots().next(), Some(Some(extents - 1)));
    let beyond = (extents + 1).to_le_bytes();
    let field = RecordError::Field("extent");
    assert_eq!(parse(&forged(&good, FRAME, FRAME, &beyond)), field);
    // Behind the last slot.
    let behind = FRAME + LOG_PAGE_SLOTS * 8;
    assert_eq!(
        parse(&forged(&good, FRAME, behind, &[1])),
        RecordError::Reserved
    );
    assert_eq!(
        parse(&bitmap(&[9])),
        RecordError::Kind {
            found: 5,
            expected: RecordKind::Log
        }
    );
    let other = Uuid([8; 16]);
    let store = RecordError::Store {
        expected: other,
        found: STORE,
    };
    assert_eq!(LogPage::parse::<Host>(other, AT, &good), Err(store));
    assert_eq!(
        BitmapPage::parse::<Host>(other, AT, &bitmap(&[9])),
        Err(store)
    );
    let good = unreadable(&[Some(bad(9, 1))]);
    for word in [9u64 << 16, 9 << 16 | 1 << 8 | 1] {
        let bytes = forged(&good, FRAME, FRAME, &word.to_le_bytes());
        let parsed = UnreadablePage::parse::<Host>(STORE, AT, &bytes);
        assert_eq!(parsed, Err(RecordError::Field("block")));
    }
    let parsed = UnreadablePage::parse::<Host>(other, AT, &good);
    assert_eq!(parsed, Err(store));

    let good = dirty(3, 9, &[5]);
    let with =
        |at: usize, new: &[u8]| DirtyPage::parse::<Host>(&forged(&good, 24, at, new)).unwrap_err();
    assert_eq!(with(10, &[33]), WireError::Kind(33));
    assert_eq!(with(24, &[0]), WireError::Member(0));
    assert_eq!(with(26, &[1]), WireError::Reserved);
    let busy = Status::Busy.wire();
    assert_eq!(with(20, &busy.to_le_bytes()), WireError::Status(busy));
}

#[test]
fn encoder_refuses() {
    let mut buf = [0; RECORD_BYTES];
    let slots = [None; LOG_PAGE_SLOTS * 2];
    let words = [0; BITMAP_PAGE_WORDS + 1];
    let length = Err(RecordError::Length(RECORD_BYTES));
    assert_eq!(
        LogPage::encode::<Host>(STORE, 1, AT, slots, &mut buf),
        length
    );
    assert_eq!(
        BitmapPage::encode::<Host>(STORE, 1, AT, words, &mut buf),
        length
    );
    assert_eq!(
        LogPage::encode::<Host>(STORE, 1, AT, [Some(u64::MAX)], &mut buf),
        Err(RecordError::Field("extent"))
    );
    for refused in [bad(1, 0), bad(1 << 48, 1)] {
        assert_eq!(
            UnreadablePage::encode::<Host>(STORE, 1, AT, [Some(refused)], &mut buf),
            Err(RecordError::Field("block"))
        );
    }
    let mut reply = [0; REPLY_BYTES];
    assert_eq!(
        DirtyPage::encode::<Host>(member(1), 1, words, &mut reply),
        Err(WireError::Count(u16::MAX))
    );
}

proptest! {
    #[test]
    fn log_round_trip(slots in proptest::collection::vec(proptest::option::of(0u64..1 << 41), 0..=LOG_PAGE_SLOTS)) {
        let bytes = log(&slots);
        let v = LogPage::parse::<Host>(STORE, AT, &bytes).unwrap();
        prop_assert_eq!(v.sequence, 11);
        prop_assert!(v.record.slots().eq(slots.iter().copied().chain(core::iter::repeat(None)).take(LOG_PAGE_SLOTS)));
    }

    #[test]
    fn unreadable_round_trip(blocks in proptest::collection::vec(proptest::option::of((0u64..1 << 48, 1u8..)), 0..=UNREADABLE_SLOTS)) {
        let blocks: Vec<_> = blocks.into_iter().map(|slot| slot.map(|(block, sectors)| bad(block, sectors))).collect();
        let bytes = unreadable(&blocks);
        let v = UnreadablePage::parse::<Host>(STORE, AT, &bytes).unwrap();
        prop_assert!(v.record.slots().eq(blocks.iter().copied().chain(core::iter::repeat(None)).take(UNREADABLE_SLOTS)));
    }

    #[test]
    fn bitmap_round_trip(words: [u64; 32], page: u64, of in 1u32..=32) {
        let bytes = bitmap(&words);
        let v = BitmapPage::parse::<Host>(STORE, AT, &bytes).unwrap();
        let sent = || words.iter().copied().chain(core::iter::repeat(0)).take(BITMAP_PAGE_WORDS);
        prop_assert!(v.record.words().iter().map(|w| w.get()).eq(sent()));
        let bytes = dirty(of, page, &words);
        let got = DirtyPage::parse::<Host>(&bytes).unwrap();
        prop_assert_eq!((got.of, got.page), (member(of), page));
        prop_assert!(got.words.iter().map(|w| w.get()).eq(sent()));
    }

    /// Whatever is accepted is what would have been written.
    #[test]
    fn accepted_is_canonical(at in 0usize..RECORD_BYTES, byte: u8) {
        if let Ok(v) = LogPage::parse::<Host>(STORE, AT, &forged(&log(&[Some(3)]), FRAME, at, &[byte])) {
            let mut buf = [0; RECORD_BYTES];
            LogPage::encode::<Host>(STORE, v.sequence, AT, v.record.slots(), &mut buf).unwrap();
            prop_assert_eq!(LogPage::parse::<Host>(STORE, AT, &buf).unwrap(), v);
        }
    }
}
