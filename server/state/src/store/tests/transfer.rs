//! A checkpoint handed to another member: streamed, verified, swapped in whole.

use super::*;

fn member(cluster_id: u64, records: i64, index: u64) -> (SimDisk, Harness) {
    let disk = SimDisk::new();
    let mut harness = Harness::open(&disk).unwrap();
    for main in 2..2 + records {
        harness.append(main, 0, &format!("key-{}", main % 3), 60);
        if main % 3 == 0 {
            harness.mark_dead(&[Revision::new(main - 1, 0)]);
        }
        harness.put_state("applied", &main.to_string());
        let frozen = Position {
            cluster_id,
            ..position(index - (1 + records - main) as u64, main)
        };
        let frozen = harness.freeze(frozen);
        harness.store.keeper().checkpoint_now(&frozen).unwrap();
    }
    (disk, harness)
}

fn receive(
    to: &Store,
    from: &Checkpoint,
    piece: usize,
) -> Result<(Received, Vec<(RecordHeader, u32)>), StoreError> {
    let mut incoming = to.keeper().incoming(7, from.manifest())?;
    assert_eq!(incoming.position(), from.position());
    for file in 0..from.files().len() {
        let mut offset = 0;
        loop {
            let bytes = from.read_at(file, offset, piece)?;
            if bytes.is_empty() {
                break;
            }
            incoming.write(file, offset, &bytes)?;
            offset += bytes.len() as u64;
        }
        assert_eq!(offset, from.files()[file].len());
    }
    let mut headers = Vec::new();
    let received = incoming.finish(&mut |header, len| headers.push((header, len)))?;
    Ok((received, headers))
}

fn install(to: &mut Harness, from: &Checkpoint) -> Result<(), StoreError> {
    let (received, headers) = receive(&to.store, from, 97)?;
    let installed = to.store.keeper().install(received)?;
    let recovered = to.store.replace(installed);
    to.now = read_back(&to.store, recovered, headers)?;
    to.dead = scan(&to.store).into_keys().collect();
    Ok(())
}

#[test]
fn an_installed_checkpoint_takes_the_place_of_everything() {
    let (_, ahead) = member(7, 20, 100);
    let (disk, mut behind) = member(7, 5, 10);
    behind.append(50, 0, "never committed", 10);
    behind.put_state("never", "committed");
    let stale = behind.freeze(position(11, 50));
    let reader = behind.store.reader();
    let pinned = reader.scan(Revision::MIN, i64::MAX);

    install(&mut behind, &ahead.store.keeper().current().unwrap()).unwrap();
    assert_eq!(behind.now, ahead.now);
    behind.check();
    assert!(reader.read(Revision::new(50, 0)).is_err());
    assert_eq!(
        pinned
            .collect::<Result<Vec<_>, _>>()
            .unwrap()
            .last()
            .unwrap()
            .revision
            .main,
        50
    );
    let error = behind.store.keeper().checkpoint_now(&stale).err().unwrap();
    assert!(matches!(error, StoreError::Superseded));
    assert_eq!(reopen(&disk).unwrap(), ahead.now);
    assert_eq!(files_with(&disk, "state-"), 1, "the old files are gone");

    behind.append(51, 0, "key", 10);
    behind.put_state("after", "1");
    behind.checkpoint(101).unwrap();
    behind.check();
    assert_eq!(reopen(&disk).unwrap(), behind.now);
}

#[test]
fn a_rewrite_leaves_the_table_alone_until_the_store_has_switched() {
    let (_, ahead) = member(7, 20, 100);
    let (disk, mut behind) = member(7, 5, 10);
    let keeper = behind.store.keeper();
    let source = ahead.store.keeper().current().unwrap();
    let (received, _) = receive(&behind.store, &source, 1000).unwrap();
    let stale = behind.freeze(position(11, 6));
    let installed = keeper.install(received).unwrap();
    assert!(keeper.defragment_now(&stale).is_err());
    keeper.rewrite_now().unwrap();
    behind.check();
    let recovered = behind.store.replace(installed);
    keeper.rewrite_now().unwrap();
    assert_eq!(
        scan(&behind.store).len(),
        ahead.now.live.len(),
        "from here on it rewrites"
    );
    assert_eq!(recovered.position, ahead.now.position);
    assert_eq!(recovered.state, ahead.now.state);
    assert_eq!(reopen(&disk).unwrap(), ahead.now);
}

#[test]
fn a_power_cut_at_any_operation_leaves_the_old_or_the_new() {
    let (_, ahead) = member(7, 12, 100);
    let source = ahead.store.keeper().current().unwrap();
    let run = |cut: Option<u64>| {
        let (disk, mut behind) = member(7, 5, 10);
        let before = behind.now.clone();
        let start = disk.operations();
        if let Some(cut) = cut {
            disk.cut_at(start + cut);
        }
        let result = install(&mut behind, &source);
        (disk.clone(), before, result, disk.operations() - start)
    };
    let (_, _, result, total) = run(None);
    result.unwrap();
    let mut seen = [0; 2];
    for cut in 1..=total {
        for survival in [Survival::Nothing, Survival::Everything, Survival::Some(cut)] {
            let (disk, before, _, _) = run(Some(cut));
            disk.restart(survival);
            let mut found = Harness::open(&disk).unwrap();
            let new = found.now == ahead.now;
            assert!(new || found.now == before, "operation {cut}, {survival:?}");
            seen[usize::from(new)] += 1;
            if !new {
                install(&mut found, &source).unwrap();
            }
            assert_eq!(reopen(&disk).unwrap(), ahead.now);
        }
    }
    assert!(
        seen[0] > 10 && seen[1] > 5,
        "both outcomes are covered: {seen:?}"
    );
}

#[test]
fn damage_on_the_way_is_refused_and_ours_stays() {
    let (_, ahead) = member(7, 6, 100);
    let source = ahead.store.keeper().current().unwrap();
    let (disk, behind) = member(7, 3, 10);
    for file in 0..source.files().len() {
        let whole = source.read_at(file, 0, TRANSFER_BYTES_MAX).unwrap();
        for byte in 0..whole.len() {
            let mut incoming = behind
                .store
                .keeper()
                .incoming(7, source.manifest())
                .unwrap();
            for other in 0..source.files().len() {
                let mut bytes = source
                    .read_at(other, 0, TRANSFER_BYTES_MAX)
                    .unwrap()
                    .to_vec();
                if other == file {
                    bytes[byte] ^= 0x10;
                }
                incoming.write(other, 0, &bytes).unwrap();
            }
            let error = incoming.finish(&mut |_, _| {}).err().unwrap();
            assert!(matches!(error, StoreError::Refused(_)), "{error}");
        }
    }
    behind.check();
    assert_eq!(reopen(&disk).unwrap(), behind.now);
}

#[test]
fn what_does_not_belong_is_refused() {
    let refused = |result: Result<(), StoreError>| {
        let error = result.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{error}");
    };
    let (_, mut behind) = member(7, 3, 10);
    let (_, foreign) = member(8, 6, 100);
    refused(install(
        &mut behind,
        &foreign.store.keeper().current().unwrap(),
    ));
    let (_, older) = member(7, 3, 10);
    refused(install(
        &mut behind,
        &older.store.keeper().current().unwrap(),
    ));

    let (_, ahead) = member(7, 6, 100);
    let source = ahead.store.keeper().current().unwrap();
    let keeper = behind.store.keeper();
    let mut incoming = keeper.incoming(7, source.manifest()).unwrap();
    refused(incoming.write(99, 0, b"x"));
    refused(incoming.write(0, 1, b"x"));
    refused(incoming.write(0, 0, &vec![0; source.files()[0].len() as usize + 1]));
    refused(incoming.finish(&mut |_, _| {}).map(|_| ()));
    refused(keeper.incoming(7, b"not a manifest").map(|_| ()));

    // Only the latest attempt may be installed.
    let (first, _) = receive(&behind.store, &source, 1000).unwrap();
    let (second, _) = receive(&behind.store, &source, 1000).unwrap();
    refused(keeper.install(first).map(|_| ()));
    keeper.install(second).unwrap();
}

#[test]
fn a_checkpoint_stays_readable_after_its_files_were_rewritten() {
    let (disk, mut ahead) = member(7, 9, 100);
    let source = ahead.store.keeper().current().unwrap();
    let expected = ahead.now.clone();
    let all: Vec<Revision> = ahead.now.live.keys().copied().collect();
    ahead.mark_dead(&all);
    let frozen = ahead.freeze(position(200, 90));
    ahead.store.keeper().defragment_now(&frozen).unwrap();
    assert_eq!(files_with(&disk, "seg-"), 0);
    let (_, mut behind) = member(7, 1, 10);
    install(&mut behind, &source).unwrap();
    assert_eq!(behind.now, expected);
}
