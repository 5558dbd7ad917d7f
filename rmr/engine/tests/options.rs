// SPDX-License-Identifier: GPL-2.0

//! `options`: command lines, and the one-line errors.

use proptest::prelude::*;
use rmr_engine::options::number;
use rmr_engine::options::Error;
use rmr_engine::options::Key;
use rmr_engine::options::Options;
use rmr_engine::options::Value;
use rmr_engine::options::Words;

const KEYS: &[Key] = &[
    Key::once("pool"),
    Key::once("size"),
    Key::many("path"),
    Key::once("mode"),
];

fn error(line: &str) -> String {
    Options::parse(line.as_bytes(), KEYS)
        .unwrap_err()
        .to_string()
}

fn value(text: &str) -> Value<'_> {
    Value::single("x", text.as_bytes()).unwrap()
}

#[test]
fn a_command() {
    let line = b" pool=vm7\tsize=0x100  path=ip:10.0.0.1,ip:10.0.0.2 path=ip:10.0.0.3\n";
    let options = Options::parse(line, KEYS).unwrap();
    assert_eq!(
        options.require("pool").unwrap().pool().unwrap().as_str(),
        "vm7"
    );
    assert_eq!(options.require("size").unwrap().sectors(1..=1000), Ok(256));
    let paths: Vec<_> = options.all("path").map(|p| p.path().unwrap()).collect();
    assert_eq!(
        paths,
        [
            (Some(&b"ip:10.0.0.1"[..]), &b"ip:10.0.0.2"[..]),
            (None, &b"ip:10.0.0.3"[..])
        ]
    );
    assert!(options.get("mode").is_none());
    assert_eq!(
        options.require("mode").unwrap_err().to_string(),
        "option \"mode\" is missing, it must be given"
    );
    assert!(Options::parse(b" \n", KEYS).is_ok());
}

#[test]
fn errors_say_what_is_possible() {
    assert_eq!(
        error("pool=a colour=red"),
        "unknown option \"colour\", known are: pool, size, path, mode"
    );
    assert_eq!(
        error("pool"),
        "\"pool\" is not of the form key=value, known keys are: pool, size, path, mode"
    );
    assert_eq!(
        error("pool=a pool=b"),
        "option \"pool\" is given twice, it can be given once"
    );
    assert_eq!(
        error("pool=a path=b path=c size=1 size=2"),
        "option \"size\" is given twice, it can be given once"
    );
    for line in ["=a", "pool=", "pool=a\x01", "p\u{e4}=1"] {
        assert!(
            error(line).contains("is not of the form key=value"),
            "{line}"
        );
    }
    assert_eq!(
        error("pool=a\nb\x1b[31m=\\"),
        "\"b\\x1b[31m=\\\\\" is not of the form key=value, known keys are: pool, size, path, mode"
    );
    assert!(error(&"y".repeat(1000)).len() < 200);
    const NONE: &[Key] = &[];
    let text = Options::parse(b"a=b", NONE).unwrap_err().to_string();
    assert_eq!(text, "unknown option \"a\", known are: none");
}

#[test]
fn values() {
    assert_eq!(value("7").number(0..=9), Ok(7));
    assert_eq!(
        value("10").number(0..=9).unwrap_err().to_string(),
        "option \"x\": \"10\" is out of range, possible is 0 to 9"
    );
    assert_eq!(
        value("-1").number(0..=9).unwrap_err().to_string(),
        "option \"x\": \"-1\" is not a number"
    );
    for (text, size) in [
        ("64k", 65536),
        ("0x10", 16),
        ("1M", 1 << 20),
        ("2g", 2 << 30),
        ("16T", 1 << 44),
    ] {
        assert_eq!(value(text).bytes_size(0..=u64::MAX), Ok(size), "{text}");
    }
    for text in [
        "k",
        "1x",
        "99999999T",
        "1kk",
        "",
        "0x",
        "18446744073709551616",
    ] {
        let value = Value::single("x", text.as_bytes());
        assert!(
            value.map_or(true, |v| v.bytes_size(0..=u64::MAX).is_err()),
            "{text}"
        );
    }
    assert_eq!(value("1500").milliseconds(0..=99_999), Ok(1500));
    assert_eq!(value("15s").milliseconds(0..=99_999), Ok(15_000));
    assert_eq!(value("15ms").milliseconds(0..=99_999), Ok(15));
    for (text, yes) in [
        ("y", true),
        ("1", true),
        ("n", false),
        ("0", false),
        ("off", false),
    ] {
        assert_eq!(value(text).boolean(), Ok(yes), "{text}");
    }
    assert!(value("2").boolean().is_err());
    assert_eq!(value("32").member().map(|m| m.get()), Ok(32));
    assert!(value("33").member().is_err() && value("0").member().is_err());
    assert_eq!(value("equal").choice(&["zero", "equal"]), Ok(1));
    assert_eq!(
        value("one")
            .choice(&["zero", "equal"])
            .unwrap_err()
            .to_string(),
        "option \"x\": \"one\" is not possible, choose one of: zero, equal"
    );
    assert!(value("a/b").pool().is_err());
    assert!(value("01234567-89ab-cdef-0123-456789abcdef").uuid().is_ok());
    assert!(value("0123").uuid().is_err());
    for text in [",", "a,", ",a", "a,b,c"] {
        assert!(value(text).path().is_err(), "{text}");
    }
    assert_eq!(value("abc").text_up_to(3), Ok("abc"));
    assert!(value("abcd").text_up_to(3).is_err());
    assert!(Value::single("x", b"a b").is_err());
    assert!(Value::single("x", b"a\x01b").is_err());
    assert_eq!(Value::single("x", b"\n"), Err(Error::Missing { key: "x" }));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(line: Vec<u8>) {
        if let Err(error) = Options::parse(&line, KEYS) {
            let text = error.to_string();
            prop_assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)), "{}", text);
        }
        for word in Words::new(&line) {
            let _ = number(word);
            if let Ok(value) = Value::single("x", word) {
                let _ = (value.path(), value.pool(), value.uuid(), value.member());
                let _ = (value.bytes_size(1..=7), value.milliseconds(1..=7), value.boolean());
            }
        }
    }

    #[test]
    fn numbers_round_trip(n: u64) {
        prop_assert_eq!(number(n.to_string().as_bytes()), Some(n));
        prop_assert_eq!(number(format!("{n:#x}").as_bytes()), Some(n));
    }

    #[test]
    fn pairs_round_trip(values in prop::collection::vec("[!-~]{1,20}", 1..10)) {
        let line: Vec<String> = values.iter().map(|v| format!("path={v}")).collect();
        let line = line.join(" ");
        let options = Options::parse(line.as_bytes(), KEYS).unwrap();
        let read: Vec<&str> = options.all("path").map(|v| v.text().unwrap()).collect();
        prop_assert_eq!(read, values);
    }
}
