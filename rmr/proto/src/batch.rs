// SPDX-License-Identifier: GPL-2.0

//! A batch: the message that carries requests of one direction. Encoding and parsing it is the hot path.
//!
//! The body is written once; the header is stamped for each member it goes to.

use crate::crc::Crc32c;
use crate::crc::Sum;
use crate::header::Header;
use crate::header::Kind;
use crate::header::RawHeader;
use crate::header::WireError;
use crate::header::HEADER_BYTES;
use crate::ids::Seq;
use crate::request::RawRequest;
use crate::request::Request;
use crate::request::RequestError;
use crate::request::REQUEST_BYTES;
use core::error::Error;
use core::fmt;
use core::mem::size_of;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;
use zerocopy_derive::FromBytes;
use zerocopy_derive::Immutable;
use zerocopy_derive::IntoBytes;
use zerocopy_derive::KnownLayout;
use zerocopy_derive::Unaligned;

/// Most requests in a message.
pub const MAX_BATCH: usize = 32;

/// Bytes of the longest batch.
pub const MAX_BATCH_BYTES: usize = HEADER_BYTES + MAX_BATCH * REQUEST_BYTES;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBatch {
    header: RawHeader,
    requests: [RawRequest; MAX_BATCH],
}

const _: () = assert!(size_of::<RawBatch>() == MAX_BATCH_BYTES);

/// Why a batch cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The batch has [`MAX_BATCH`] requests already.
    Full,
    /// The batch has no request.
    Empty,
    /// A read among writes, or the other way round.
    Mixed,
    /// The data lengths together do not fit 32 bits.
    TooMuchData,
    /// The request is wrong.
    Request(RequestError),
    /// The header does not fit the requests, or lacks something.
    Header(WireError),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "a batch has at most {MAX_BATCH} requests"),
            Self::Empty => f.write_str("a batch without request"),
            Self::Mixed => f.write_str("a batch with both reads and others"),
            Self::TooMuchData => f.write_str("the data of the batch exceeds 4 GiB"),
            Self::Request(why) => fmt::Display::fmt(why, f),
            Self::Header(why) => fmt::Display::fmt(why, f),
        }
    }
}

impl Error for EncodeError {}

/// Writes a batch into lent bytes. Does not allocate; any context.
pub struct BatchEncoder<'b> {
    raw: &'b mut RawBatch,
    count: usize,
    kind: Kind,
    data_len: u32,
    /// The smallest sequence number so far.
    lowest: Option<Seq>,
    /// Sum over the requests, until another is added.
    body: Option<Sum>,
}

impl<'b> BatchEncoder<'b> {
    /// An empty batch. What is in `buf` does not matter.
    pub fn new(buf: &'b mut [u8; MAX_BATCH_BYTES]) -> Self {
        Self {
            raw: zerocopy::transmute_mut!(buf),
            count: 0,
            kind: Kind::IoRead,
            data_len: 0,
            lowest: None,
            body: None,
        }
    }

    /// Adds a request; returns where its data begins in the data of the message, in bytes. The first
    /// request decides the direction. On an error the batch is as before.
    pub fn push(&mut self, request: &Request) -> Result<u32, EncodeError> {
        request.check().map_err(EncodeError::Request)?;
        let kind = request.kind();
        if self.count != 0 && kind != self.kind {
            return Err(EncodeError::Mixed);
        }
        let data_offset = self.data_len;
        let data_len = data_offset
            .checked_add(request.data_len())
            .ok_or(EncodeError::TooMuchData)?;
        let place = self
            .raw
            .requests
            .get_mut(self.count)
            .ok_or(EncodeError::Full)?;
        *place = RawRequest::new(request);
        self.count += 1;
        self.kind = kind;
        self.data_len = data_len;
        self.body = None;
        if request.seq.is_some() {
            self.lowest = Some(
                self.lowest
                    .map_or(request.seq, |lowest| lowest.min(request.seq)),
            );
        }
        Ok(data_offset)
    }

    /// Number of requests.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no request yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of data that travel with the requests.
    pub fn data_len(&self) -> u32 {
        self.data_len
    }

    /// Stamps the header and returns the message. Can be called again with the header of another member;
    /// the requests are neither encoded nor summed again.
    pub fn finish<C: Crc32c>(&mut self, header: &Header) -> Result<&[u8], EncodeError> {
        if self.count == 0 {
            return Err(EncodeError::Empty);
        }
        header.check().map_err(EncodeError::Header)?;
        if let Some(seq) = self.lowest.filter(|seq| *seq <= header.watermark) {
            let watermark = header.watermark;
            return Err(EncodeError::Header(WireError::BelowWatermark {
                index: 0,
                seq,
                watermark,
            }));
        }
        let body_len = self.count * REQUEST_BYTES;
        let len = HEADER_BYTES + body_len;
        let bytes = self.raw.requests.as_bytes().get(..body_len).unwrap_or(&[]);
        let body = self.body.get_or_insert_with(|| Sum::of::<C>(bytes));
        // At most 32 requests and 856 bytes.
        let mut raw = header.raw(self.kind, len as u32);
        raw.count = U16::new(self.count as u16);
        raw.data_len = U32::new(self.data_len);
        raw.seal::<C>(body);
        self.raw.header = raw;
        self.raw.as_bytes().get(..len).ok_or(EncodeError::Full)
    }
}

impl Request {
    /// Kind of message it travels in.
    const fn kind(&self) -> Kind {
        match self.op {
            crate::request::Op::Read => Kind::IoRead,
            _ => Kind::IoWrite,
        }
    }
}

/// A batch that was received and checked.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    header: Header,
    kind: Kind,
    data_len: u32,
    requests: &'a [RawRequest],
}

impl<'a> Batch<'a> {
    /// Checks `bytes`, which are untrusted, as one whole message. Every field of every request is checked
    /// before any is handed out. Any context.
    pub fn parse<C: Crc32c>(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (raw, kind, body) = RawHeader::open::<C>(bytes)?;
        Self::from_parts(raw, kind, body)
    }

    pub(crate) fn from_parts(
        raw: &RawHeader,
        kind: Kind,
        body: &'a [u8],
    ) -> Result<Self, WireError> {
        if !kind.is_io() {
            return Err(WireError::Kind(raw.kind.get()));
        }
        let count = raw.count.get();
        if !(1..=MAX_BATCH).contains(&usize::from(count)) {
            return Err(WireError::Count(count));
        }
        let right = HEADER_BYTES + usize::from(count) * REQUEST_BYTES;
        let length = WireError::Length {
            said: raw.len.get(),
            right,
        };
        let requests = <[RawRequest]>::ref_from_bytes(body).map_err(|_| length)?;
        if requests.len() != usize::from(count) {
            return Err(length);
        }
        let header = Header::from_raw(raw)?;
        let said = raw.data_len.get();
        let mut sum = 0u32;
        for (index, raw) in requests.iter().enumerate() {
            let request = raw
                .parse(sum)
                .map_err(|why| WireError::Request { index, why })?;
            if request.kind() != kind {
                return Err(WireError::Direction { index });
            }
            if request.seq.is_some() && request.seq <= header.watermark {
                let (seq, watermark) = (request.seq, header.watermark);
                return Err(WireError::BelowWatermark {
                    index,
                    seq,
                    watermark,
                });
            }
            sum = sum
                .checked_add(request.data_len())
                .ok_or(WireError::DataLen { said, sum })?;
        }
        if sum != said {
            return Err(WireError::DataLen { said, sum });
        }
        Ok(Self {
            header,
            kind,
            data_len: said,
            requests,
        })
    }

    /// Whom it is for, and under which configuration it was sent.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// [`Kind::IoWrite`] or [`Kind::IoRead`].
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes of data that travel with the requests, together.
    pub fn data_len(&self) -> u32 {
        self.data_len
    }

    /// Number of requests, 1 to 32.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Never: a batch has at least one request.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// The request at `index`, from 0.
    pub fn get(&self, index: usize) -> Option<Request> {
        self.requests().nth(index)
    }

    /// The requests, in order.
    pub fn requests(&self) -> Requests<'a> {
        Requests {
            rest: self.requests.iter(),
            data_offset: 0,
        }
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} ", self.kind, self.header)?;
        f.debug_list().entries(self.requests()).finish()
    }
}

/// Iterator over the requests of a [`Batch`].
#[derive(Clone)]
pub struct Requests<'a> {
    rest: core::slice::Iter<'a, RawRequest>,
    data_offset: u32,
}

impl Iterator for Requests<'_> {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        // All were checked when the batch was parsed: this neither fails nor overflows.
        let request = self.rest.next()?.decode(self.data_offset)?;
        self.data_offset = self.data_offset.wrapping_add(request.data_len());
        Some(request)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rest.size_hint()
    }
}

impl ExactSizeIterator for Requests<'_> {}
