// SPDX-License-Identifier: GPL-2.0

use super::*;

fn encode(of: u32, text: &str) -> Result<Vec<u8>, WireError> {
    let mut buf = [0x55; ADDRESS_BYTES];
    let address = Address {
        name: "pool".parse().unwrap(),
        of: member(of),
        text,
    };
    address.encode::<Host>(&mut buf)?;
    Ok(buf.to_vec())
}

fn accepts(bytes: &[u8]) -> bool {
    Address::parse::<Host>(bytes).is_ok()
}

#[test]
fn bytes_on_the_wire() {
    let mut expected = Vec::new();
    expected.extend(b"rmr-msg\0");
    expected.extend(1u16.to_le_bytes());
    expected.extend(22u16.to_le_bytes());
    expected.extend(840u32.to_le_bytes());
    expected.resize(HEADER_BYTES, 0);
    expected.extend(b"pool");
    expected.extend([0; 60]);
    expected.extend(3u32.to_le_bytes());
    expected.extend(11u32.to_le_bytes());
    expected.extend(b"ip:10.0.0.3");
    expected.resize(ADDRESS_BYTES, 0);
    reseal(&mut expected, HEADER_BYTES);
    assert_eq!(encode(3, "ip:10.0.0.3").unwrap(), expected);
}

#[test]
fn damaged() {
    let bytes = encode(32, "ip:10.0.0.3 ip:fd77:1::3").unwrap();
    refuses_bit_flips(&bytes, accepts);
    refuses_truncation(&bytes, HEADER_BYTES, accepts);
}

#[test]
fn texts() {
    let long = "x".repeat(MAX_ADDRESS_TEXT + 1);
    assert!(encode(1, &long[1..]).is_ok());
    for wrong in ["", " ", "   ", "a\nb", "\u{e4}", &long] {
        assert_eq!(encode(1, wrong), Err(WireError::Text), "{wrong:?}");
    }
}

#[test]
fn forged_fields() {
    const OF: usize = HEADER_BYTES + 64;
    const LEN: usize = OF + 4;
    const TEXT: usize = LEN + 4;
    let good = encode(3, "ip:10.0.0.3").unwrap();
    let why = |at: usize, new: &[u8]| {
        let bytes = forged(&good, HEADER_BYTES, at, new);
        Address::parse::<Host>(&bytes).err()
    };
    assert_eq!(why(OF, &3u32.to_le_bytes()), None);
    for id in [0, 33, 1 << 16 | 3, u32::MAX] {
        let wire = id.min(0xffff) as u16;
        assert_eq!(why(OF, &id.to_le_bytes()), Some(WireError::Member(wire)));
    }
    for len in [0, MAX_ADDRESS_TEXT as u32 + 1, u32::MAX] {
        assert_eq!(why(LEN, &len.to_le_bytes()), Some(WireError::Text));
    }
    // What is behind the text is not part of it.
    assert_eq!(why(LEN, &10u32.to_le_bytes()), Some(WireError::Reserved));
    assert_eq!(why(LEN, &12u32.to_le_bytes()), Some(WireError::Text));
    assert_eq!(why(TEXT, &[0xff]), Some(WireError::Text));
    // Of the header only what all messages have.
    for at in [24, 40, 42, 44, 48, 56, 64, 72, 80] {
        assert_eq!(why(at, &[1]), Some(WireError::Reserved), "{at}");
    }
    assert!(matches!(why(HEADER_BYTES, &[0]), Some(WireError::Name(_))));
    assert_eq!(why(10, &21u16.to_le_bytes()), Some(WireError::Kind(21)));
}

proptest! {
    #[test]
    fn any(name in any_name(), of in any_member(), text in "[ -~]{0,680}") {
        let mut buf = [0; ADDRESS_BYTES];
        let address = Address { name, of, text: &text };
        match address.encode::<Host>(&mut buf) {
            Ok(()) => prop_assert_eq!(Address::parse::<Host>(&buf), Ok(address)),
            Err(why) => {
                prop_assert_eq!(why, WireError::Text);
                prop_assert!(text.trim().is_empty());
            }
        }
    }
}
