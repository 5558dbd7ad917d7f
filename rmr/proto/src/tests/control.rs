// SPDX-License-Identifier: GPL-2.0

use super::*;

prop_compose! {
    fn any_target(nil_pool: bool)(
        name in any_name(),
        pool in any_uuid(),
        nil: bool,
        store in any_uuid(),
        member in any_member(),
        incarnation in 1u64..,
    ) -> Target {
        let pool = if nil_pool && nil { Uuid::NIL } else { pool };
        Target { name, pool, store, member, incarnation: Incarnation(incarnation) }
    }
}

fn any_fences() -> impl Strategy<Value = Fences> {
    prop_oneof![
        Just(Fences::Dead),
        Just(Fences::Alive),
        Just(Fences::Nobody)
    ]
}

fn any_control() -> impl Strategy<Value = Control> {
    let state = || (any_target(false), any_generation(), 1u64.., any::<u64>());
    prop_oneof![
        any_name().prop_map(|name| Control::Query { name }),
        (any_target(true), any_generation(), any_fences()).prop_map(|(to, generation, fences)| {
            Control::Promise {
                to,
                generation,
                fences,
            }
        }),
        (any_target(false), any_config(), any::<[bool; 3]>()).prop_map(
            |(mut to, config, [assign, joins, discard])| {
                to.store = config.store(to.member).unwrap_or(to.store);
                if config.receivers().contains(to.member) {
                    to.incarnation = config.incarnation(to.member);
                }
                Control::Install {
                    to,
                    config,
                    assign,
                    joins,
                    discard,
                }
            }
        ),
        state().prop_map(|(to, generation, epoch, watermark)| Control::Detach {
            to,
            generation,
            epoch: Epoch(epoch),
            watermark: Seq(watermark),
        }),
        state().prop_map(|(to, generation, epoch, watermark)| Control::Ping {
            to,
            generation,
            epoch: Epoch(epoch),
            watermark: Seq(watermark),
        }),
    ]
}

fn encode(control: &Control) -> Vec<u8> {
    let mut buf = [0x55; MAX_CONTROL_BYTES];
    control.encode::<Host>(&mut buf).unwrap().to_vec()
}

fn target() -> Target {
    Target {
        name: "pool".parse().unwrap(),
        pool: Uuid([0xaa; 16]),
        store: Uuid([1; 16]),
        member: member(1),
        incarnation: Incarnation(5),
    }
}

fn config() -> Config {
    let mut persisted = [Epoch::NONE; MAX_MEMBERS];
    persisted[1] = Epoch(7);
    Config {
        generation: Generation {
            number: 6,
            nonce: 7,
        },
        epoch: Epoch(8),
        in_sync: MemberSet::from_bits(3),
        catching_up: MemberSet::EMPTY,
        clean: true,
        forked_from: Some(Fork {
            history: Uuid([0x46; 16]),
            epoch: Epoch(4),
        }),
        quorum: Quorum::Majority,
        persisted,
        ..crate::config::tests::sample()
    }
}

fn samples() -> [Control; 5] {
    let (to, generation, epoch, watermark) = (target(), config().generation, Epoch(8), Seq(9));
    [
        Control::Query { name: to.name },
        Control::Promise {
            to: Target {
                pool: Uuid::NIL,
                ..to
            },
            generation,
            fences: Fences::Alive,
        },
        Control::Install {
            to,
            config: config(),
            assign: true,
            joins: true,
            discard: false,
        },
        Control::Detach {
            to,
            generation,
            epoch,
            watermark,
        },
        Control::Ping {
            to,
            generation,
            epoch,
            watermark,
        },
    ]
}

fn accepts(bytes: &[u8]) -> bool {
    Control::parse::<Host>(bytes).is_ok()
}

fn refused(bytes: &[u8]) -> WireError {
    Control::parse::<Host>(bytes).unwrap_err()
}

#[test]
fn bytes_on_the_wire() {
    let mut expected = Vec::new();
    expected.extend(b"rmr-msg\0");
    expected.extend(1u16.to_le_bytes());
    expected.extend(18u16.to_le_bytes());
    expected.extend(1280u32.to_le_bytes());
    expected.extend([0; 8]);
    expected.extend([0xaa; 16]);
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    for number in [5u64, 6, 7, 8, 0] {
        expected.extend(number.to_le_bytes());
    }
    expected.extend(b"pool");
    expected.extend([0; 60]);
    expected.extend([1; 16]);
    expected.extend([3, 0, 0, 0, 0, 0, 0, 0]);
    for number in [6u64, 7, 8] {
        expected.extend(number.to_le_bytes());
    }
    for number in [3u32, 0, 3, 0] {
        expected.extend(number.to_le_bytes());
    }
    expected.extend([0x48; 16]);
    expected.extend([0x46; 16]);
    expected.extend(4u64.to_le_bytes());
    expected.extend([1; 16]);
    expected.extend(5u64.to_le_bytes());
    expected.extend(0u64.to_le_bytes());
    expected.extend([2; 16]);
    expected.extend(6u64.to_le_bytes());
    expected.extend(7u64.to_le_bytes());
    expected.extend([0; 30 * 32]);
    reseal(&mut expected, HEADER_BYTES);
    let [_, _, install, ..] = samples();
    assert_eq!(encode(&install), expected);
}

#[test]
fn damaged() {
    for control in samples() {
        let bytes = encode(&control);
        refuses_bit_flips(&bytes, accepts);
        refuses_truncation(&bytes, HEADER_BYTES, accepts);
        let mut longer = bytes.clone();
        longer.push(0);
        longer[12] += 1;
        reseal(&mut longer, HEADER_BYTES);
        let length = WireError::Length {
            said: longer.len() as u32,
            right: bytes.len(),
        };
        assert_eq!(refused(&longer), length);
    }
}

#[test]
fn refused_fields() {
    let [query, promise, install, detach, ping] = samples().map(|control| encode(&control));
    let with = |bytes: &[u8], at: usize, new: &[u8]| refused(&forged(bytes, HEADER_BYTES, at, new));
    const NAME: usize = HEADER_BYTES;
    const STORE: usize = HEADER_BYTES + 64;
    const FLAGS: usize = HEADER_BYTES + 80;
    const CONFIG: usize = HEADER_BYTES + 88;

    for bytes in [&query, &promise, &install, &detach, &ping] {
        assert_eq!(with(bytes, NAME, &[0]), WireError::Name(NameError::Padding));
        assert_eq!(
            with(bytes, NAME, b"/"),
            WireError::Name(NameError::BadByte(b'/'))
        );
        assert_eq!(
            with(bytes, NAME, &[b'a'; 64]),
            WireError::Name(NameError::TooLong)
        );
        assert_eq!(with(bytes, 42, &[1]), WireError::Reserved);
        assert_eq!(with(bytes, 44, &[1]), WireError::Reserved);
        assert_eq!(with(bytes, FLAGS, &[8]), WireError::Flags(8));
        assert_eq!(with(bytes, FLAGS + 4, &[1]), WireError::Reserved);
    }
    for at in [24, 40, 48, 56, 64, 72, 80, STORE] {
        assert_eq!(with(&query, at, &[1]), WireError::Reserved);
    }
    for bytes in [&query, &detach, &ping] {
        assert_eq!(with(bytes, FLAGS, &[1]), WireError::Flags(1));
    }
    for flags in [3, 4] {
        assert_eq!(
            with(&promise, FLAGS, &[flags]),
            WireError::Flags(flags.into())
        );
    }
    for bytes in [&promise, &install, &detach, &ping] {
        assert_eq!(with(bytes, 40, &[0]), WireError::Member(0));
        assert_eq!(with(bytes, 40, &[33]), WireError::Member(33));
        assert_eq!(with(bytes, 48, &[0; 8]), WireError::Missing("incarnation"));
        assert_eq!(with(bytes, 56, &[0; 8]), WireError::Missing("generation"));
        assert_eq!(
            with(bytes, STORE, &[0; 16]),
            WireError::Missing("store UUID")
        );
    }
    for bytes in [&install, &detach, &ping] {
        assert_eq!(with(bytes, 24, &[0; 16]), WireError::Missing("pool UUID"));
        assert_eq!(with(bytes, 72, &[0; 8]), WireError::Missing("epoch"));
    }
    assert_eq!(with(&promise, 72, &[1]), WireError::Reserved);
    assert_eq!(with(&promise, 80, &[1]), WireError::Reserved);
    assert_eq!(with(&install, 80, &[1]), WireError::Reserved);
    assert_eq!(with(&install, 56, &[5]), WireError::ConfigHeader);
    assert_eq!(with(&install, 64, &[5]), WireError::ConfigHeader);
    assert_eq!(with(&install, 72, &[5]), WireError::ConfigHeader);
    assert_eq!(with(&install, STORE, &[5]), WireError::ConfigHeader);
    assert_eq!(with(&install, 48, &[4]), WireError::ConfigHeader);
    assert_eq!(
        with(&install, CONFIG, &[0; 1104]),
        WireError::Missing("configuration")
    );
    assert_eq!(
        with(&install, CONFIG + 24, &[0; 4]),
        WireError::Config(ConfigError::NobodyInSync)
    );
}

#[test]
fn encoder_refuses() {
    let refused = |control: Control| {
        control
            .encode::<Host>(&mut [0; MAX_CONTROL_BYTES])
            .unwrap_err()
    };
    let (to, generation) = (target(), config().generation);
    let nil = Target {
        pool: Uuid::NIL,
        ..to
    };
    let install = |to, config| {
        refused(Control::Install {
            to,
            config,
            assign: false,
            joins: false,
            discard: false,
        })
    };
    assert_eq!(install(nil, config()), WireError::Missing("pool UUID"));
    assert_eq!(
        install(
            to,
            Config {
                epoch: Epoch::NONE,
                ..config()
            }
        ),
        WireError::Config(ConfigError::NoEpoch)
    );
    assert_eq!(
        install(
            Target {
                store: Uuid([9; 16]),
                ..to
            },
            config()
        ),
        WireError::ConfigHeader
    );
    let promise = |to, generation| {
        refused(Control::Promise {
            to,
            generation,
            fences: Fences::Dead,
        })
    };
    assert_eq!(
        promise(to, Generation::NONE),
        WireError::Missing("generation")
    );
    assert_eq!(
        promise(
            Target {
                store: Uuid::NIL,
                ..to
            },
            generation
        ),
        WireError::Missing("store UUID")
    );
    let stranger = Target {
        incarnation: Incarnation::NONE,
        ..to
    };
    assert_eq!(
        promise(stranger, generation),
        WireError::Missing("incarnation")
    );
}

proptest! {
    #[test]
    fn round_trip(control in any_control()) {
        let bytes = encode(&control);
        prop_assert_eq!(Control::parse::<Host>(&bytes), Ok(control.clone()));
        prop_assert!(matches!(Message::parse::<Host>(&bytes), Ok(Message::Control(c)) if c == control));
        prop_assert_eq!(Batch::parse::<Host>(&bytes).unwrap_err(), WireError::Kind(control.kind().wire()));
    }

    /// Whatever is accepted is what the encoder would have sent.
    #[test]
    fn accepted_is_canonical(control in any_control(), at in 0usize..MAX_CONTROL_BYTES, byte: u8) {
        let mut bytes = encode(&control);
        let at = at % bytes.len();
        bytes[at] = byte;
        reseal(&mut bytes, HEADER_BYTES);
        if let Ok(control) = Control::parse::<Host>(&bytes) {
            prop_assert_eq!(encode(&control), bytes);
        }
    }
}
