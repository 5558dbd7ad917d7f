// SPDX-License-Identifier: GPL-2.0

//! What the targets share. A fuzzer does not guess checksums: the targets make the checksum of their input
//! right, and let the parser judge the rest. That wrong checksums are refused is shown by the unit tests.

use rmr_proto::Crc32c;

/// The host's CRC32C.
pub struct Crc;

impl Crc32c for Crc {
    fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
        !crc32c::crc32c_append(!seed, bytes)
    }
}

/// Where the checksum is, in all messages and records.
const CRC_AT: usize = 16;

/// Where the length is, in all messages.
const LEN_AT: usize = 12;

/// Begins `data` with `start` (magic, version and so on) and makes the checksum right, for a header of
/// `header` bytes. What is too short stays as it is.
pub fn seal(data: &[u8], start: &[u8], header: usize) -> Vec<u8> {
    let mut bytes = data.to_vec();
    if bytes.len() < header {
        return bytes;
    }
    bytes[..start.len()].copy_from_slice(start);
    bytes[CRC_AT..CRC_AT + 4].fill(0);
    let body = Crc::crc32c(!0, &bytes[header..]);
    let crc = !Crc::crc32c(body, &bytes[..header]);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// As [`seal`] for a message of `magic`, whose first two bytes of input are the kind; the length is made right, too.
pub fn seal_message(data: &[u8], magic: &[u8; 8], header: usize) -> Vec<u8> {
    let mut start = [0; LEN_AT + 4];
    start[..8].copy_from_slice(magic);
    start[8] = 1;
    start[10..12].copy_from_slice(data.get(10..12).unwrap_or(&[0; 2]));
    start[LEN_AT..].copy_from_slice(&(data.len() as u32).to_le_bytes());
    seal(data, &start, header)
}

/// As [`seal`] for a record: input shorter than a record is followed by zeroes.
pub fn seal_record(data: &[u8], kind: u8, copy: u8) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(rmr_proto::RECORD_BYTES, 0);
    bytes[20] = copy;
    let start = [b"rmr-disk", &[kind, 0, 1, 0, 0, 0x10, 0, 0][..]].concat();
    seal(&bytes, &start, 64)
}
