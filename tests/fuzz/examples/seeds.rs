// SPDX-License-Identifier: GPL-2.0

//! Writes a good input for each target to `corpus/`, from where a fuzzer gets to the depths at once.

use rmr_fuzz::Crc;
use rmr_proto::Fences;
use rmr_proto::*;
use std::fs;
use std::path::Path;

fn write(target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(name), bytes)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let id = |n| MemberId::new(n).ok_or("member id");
    let geometry = Geometry::new(1 << 30, 16)?;
    let layout = Layout::compute(2 << 30, geometry)?;
    let (pool, store, name) = (Uuid([9; 16]), Uuid([7; 16]), "pool".parse()?);
    let generation = Generation {
        number: 2,
        nonce: 3,
    };
    let (epoch, watermark, incarnation) = (Epoch(4), Seq(5), Incarnation(6));
    let mut members = [None; MAX_MEMBERS];
    members[0] = Some(store);
    members[1] = Some(Uuid([8; 16]));
    let mut incarnations = [Incarnation::NONE; MAX_MEMBERS];
    incarnations[0] = incarnation;
    incarnations[1] = Incarnation(7);
    let config = Config {
        generation,
        epoch,
        in_sync: MemberSet::only(id(1)?),
        catching_up: MemberSet::only(id(2)?),
        members,
        incarnations,
        persisted: [Epoch::NONE; MAX_MEMBERS],
        clean: true,
        history: pool,
        forked_from: Some(Fork {
            history: Uuid([3; 16]),
            epoch: Epoch(2),
        }),
        quorum: Quorum::Majority,
        maintenance: MemberSet::EMPTY,
    };

    let header = Header {
        pool,
        member: id(1)?,
        incarnation,
        generation,
        epoch,
        watermark,
    };
    for (file, ops) in [
        ("reads", &[Op::Read; 3][..]),
        ("writes", &[Op::Write, Op::Flush, Op::WriteZeroes]),
    ] {
        let mut buf = [0; MAX_BATCH_BYTES];
        let mut encoder = BatchEncoder::new(&mut buf);
        for (n, op) in (0u8..).zip(ops.iter().copied()) {
            let n = u64::from(n);
            let seq = if op.is_write() {
                Seq(100 + n)
            } else {
                Seq::NONE
            };
            let (offset, len) = if op == Op::Flush {
                (0, 0)
            } else {
                (n << 20, 4096)
            };
            encoder.push(&Request {
                op,
                flags: Flags::EMPTY,
                seq,
                offset,
                len,
                data_offset: 0,
            })?;
        }
        write("batch", file, encoder.finish::<Crc>(&header)?)?;
    }

    let to = Target {
        name,
        pool,
        store,
        member: id(1)?,
        incarnation,
    };
    let config_copy = config.clone();
    for (file, control) in [
        ("query", Control::Query { name }),
        (
            "promise",
            Control::Promise {
                to,
                generation,
                fences: Fences::Alive,
            },
        ),
        (
            "install",
            Control::Install {
                to,
                config: config_copy,
                assign: true,
                joins: true,
                discard: true,
            },
        ),
        (
            "detach",
            Control::Detach {
                to,
                generation,
                epoch,
                watermark,
            },
        ),
        (
            "ping",
            Control::Ping {
                to,
                generation,
                epoch,
                watermark,
            },
        ),
    ] {
        write(
            "control",
            file,
            control.encode::<Crc>(&mut [0; MAX_CONTROL_BYTES])?,
        )?;
    }

    let run = Run::new(7, 8);
    let marks = [Mark::new(run, MemberSet::only(id(2)?)); 3];
    let merge = Merge {
        to,
        generation,
        marks: &marks,
    };
    write(
        "merge",
        "marks",
        merge.encode::<Crc>(&mut [0; MAX_MERGE_BYTES])?,
    )?;
    let mut buf = [0; ADDRESS_BYTES];
    let address = Address {
        name: to.name,
        of: id(2)?,
        text: "ip:10.0.0.2 ip:fd77:1::2",
    };
    address.encode::<Crc>(&mut buf)?;
    write("address", "two", &buf)?;
    let challenge = Challenge {
        name,
        role: Role::Peer,
        nonce: Nonce([1; NONCE_BYTES]),
    };
    let mut buf = [0; CHALLENGE_BYTES];
    challenge.encode::<Crc>(&mut buf)?;
    write("auth", "challenge", &buf)?;
    let proof = Proof {
        name,
        role: Role::Client,
        nonce: challenge.nonce,
        mac: Mac([2; MAC_BYTES]),
    };
    let mut buf = [0; PROOF_BYTES];
    proof.encode::<Crc>(&mut buf)?;
    write("auth", "proof", &buf)?;
    let response = Response {
        store,
        member: id(3)?,
        nonce: challenge.nonce,
        mac: proof.mac,
    };
    let mut buf = [0; RESPONSE_BYTES];
    response.encode::<Crc>(&mut buf)?;
    write("auth", "response", &buf)?;
    for (file, ask) in [
        (
            "fetch",
            Ask::FetchDirty {
                of: id(3)?,
                page: 4,
            },
        ),
        (
            "pull",
            Ask::Pull {
                offset: 1 << 20,
                len: 65536,
            },
        ),
        ("clear", Ask::Clear { runs: &[run; 3] }),
        ("begun", Ask::Begun),
    ] {
        let peer = Peer {
            to: Header {
                watermark: Seq::NONE,
                ..header
            },
            from: id(2)?,
            ask,
        };
        write("peer", file, peer.encode::<Crc>(&mut [0; MAX_PEER_BYTES])?)?;
    }
    let mut reply = [0; REPLY_BYTES];
    let page = DirtyPage::encode::<Crc>(id(3)?, 4, [5; 9], &mut reply)?;
    write("dirty_page", "page", page)?;
    let begun = Begun { seq: Seq(6) }.encode::<Crc>(&mut reply)?;
    write("reply", "begun", begun)?;

    let report = MemberReport {
        version_min: 1,
        version_max: 1,
        pool,
        store,
        member: id(1)?,
        incarnation,
        geometry,
        limits: Limits {
            logical_block: 512,
            physical_block: 4096,
            io_min: 4096,
            io_opt: 0,
            max_write_zeroes: 1 << 20,
            features: Features::WRITE_CACHE,
        },
        promised: generation,
        installed: Some(config.clone()),
        serving: true,
        progress: Progress::Dirty { chunks: 3, rate: 4 },
        log_extents: 64,
    };
    let suspects = Suspects {
        all: false,
        runs: &[run; 3],
    };
    for (file, kind, report, suspects) in [
        (
            "report",
            Kind::Query,
            Some(report.clone()),
            Suspects::default(),
        ),
        ("suspects", Kind::Promise, Some(report), suspects),
        ("bare", Kind::Ping, None, Suspects::default()),
    ] {
        let reply = Reply {
            kind,
            status: Status::Ok,
            report,
            suspects,
        };
        write("reply", file, reply.encode::<Crc>(&mut [0; REPLY_BYTES])?)?;
    }

    let mut buf = [0; RECORD_BYTES];
    let record = EpochRecord {
        incarnation,
        promised: generation,
        installed: Some(config),
        suspect_all: true,
        unreadable: true,
        bitmaps: MemberSet::only(id(1)?),
        all_dirty: MemberSet::only(id(2)?),
    };
    let at = Place {
        offset: 8192,
        copy: 1,
    };
    record.encode::<Crc>(store, 1, at, &mut buf)?;
    write("epoch", "installed", &buf)?;
    LogPage::encode::<Crc>(store, 1, at, [None, Some(7)], &mut buf)?;
    write("pages", "log", &buf)?;
    let bad = BadBlock {
        block: 9,
        sectors: 0x81,
    };
    UnreadablePage::encode::<Crc>(store, 1, at, [None, Some(bad)], &mut buf)?;
    write("pages", "unreadable", &buf)?;
    BitmapPage::encode::<Crc>(store, 1, at, [5; 9], &mut buf)?;
    write("pages", "bitmap", &buf)?;
    let superblock = Superblock {
        role: DeviceRole::Data,
        state: StoreState::Ready,
        store,
        pool,
        name,
        member: id(1)?,
        logical_block: 512,
        layout,
        metadata: None,
        secret: true,
    };
    superblock.encode::<Crc>(1, 0, &mut buf)?;
    write("superblock", "ready", &buf)?;
    let external = Superblock {
        pool: Uuid::NIL,
        layout: Layout::compute_external(2 << 30, 1 << 30, geometry)?,
        metadata: Some(MetadataDevice {
            uuid: store,
            starts: 2,
        }),
        ..superblock
    };
    external.encode::<Crc>(1, 0, &mut buf)?;
    write("superblock", "external", &buf)?;
    let metadata = external.of_metadata().ok_or("no metadata device")?;
    metadata.encode::<Crc>(1, 0, &mut buf)?;
    write("superblock", "metadata", &buf)?;
    Ok(())
}
