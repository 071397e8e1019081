//! The records that reproduce a model: what a rewritten journal holds.
//!
//! Pure. Called when a journal is rewritten or kept. No record is longer than a frame may be, however large the model.

use crate::model::Model;
use crate::record::Record;
use sampan_ipc::replication::{Artifact, Blob, Execution};

/// Most bytes of the list in one record, about; one element may be longer.
const LIST_BYTES_MAX: usize = 256 << 10;

/// Makes records that give `model` when they are applied to an empty model.
pub fn snapshot(model: &Model) -> Vec<Record> {
    let execution = &model.execution;
    let order = Box::new(model.order.clone());
    let mut records = vec![Record::Begun { id: execution.id, at: execution.started, order }];
    for (task, number) in model.tasks.iter().zip(0..) {
        records.push(Record::TaskSnapshot(Box::new(task.task.clone())));
        for artifacts in pieces(&task.artifacts, artifact_bytes) {
            let artifacts = artifacts.iter().map(without_blobs).collect();
            records.push(Record::ArtifactSnapshots { task: number, artifacts });
        }
        for (artifact, nth) in task.artifacts.iter().zip(0..) {
            for blobs in pieces(&artifact.blobs, blob_bytes) {
                records.push(Record::BlobSnapshots { task: number, artifact: nth, blobs: blobs.to_vec() });
            }
        }
    }
    records.extend(model.sessions.values().cloned().map(Record::Session));
    // The execution comes behind its tasks and sessions: a final state ends the journal for them.
    let last = Execution { lost_sessions: Vec::new(), ..execution.clone() };
    records.push(Record::ExecutionSnapshot(Box::new(last)));
    for locations in pieces(&execution.lost_sessions, String::len) {
        records.push(Record::LostSessions(locations.to_vec()));
    }
    records
}

/// Splits a list into pieces of at most [`LIST_BYTES_MAX`] bytes, but at least one element.
fn pieces<T>(list: &[T], bytes: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let (mut pieces, mut rest) = (Vec::new(), list);
    while !rest.is_empty() {
        let mut sum = 0;
        let fits = rest.iter().take_while(|element| {
            sum += bytes(element);
            sum <= LIST_BYTES_MAX
        });
        let (piece, more) = rest.split_at_checked(fits.count().max(1)).unwrap_or((rest, &[]));
        pieces.push(piece);
        rest = more;
    }
    pieces
}

fn without_blobs(artifact: &Artifact) -> Artifact {
    // Field by field: a clone of the whole would copy the blobs first.
    Artifact {
        source: artifact.source.clone(),
        target: artifact.target.clone(),
        state: artifact.state,
        outcome: artifact.outcome,
        digest: artifact.digest.clone(),
        bytes: artifact.bytes,
        attempts: artifact.attempts,
        error: artifact.error.clone(),
        note: artifact.note.clone(),
        blobs: Vec::new(),
    }
}

/// An upper bound of the encoded length of an artifact without its blobs.
fn artifact_bytes(artifact: &Artifact) -> usize {
    let texts =
        [&artifact.source, &artifact.target, &artifact.digest, &artifact.error.message, &artifact.note];
    96 + texts.iter().map(|text| text.len()).sum::<usize>()
}

/// An upper bound of the encoded length of a blob.
fn blob_bytes(blob: &Blob) -> usize {
    64 + blob.digest.len() + blob.error.message.len()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{RandomRecords, order};
    use super::*;
    use sampan_ipc::frame;
    use sampan_ipc::replication::State;

    fn replay(records: &[Record]) -> Model {
        let mut model = Model::default();
        records.iter().for_each(|record| model.apply(record));
        model
    }

    #[test]
    fn a_snapshot_gives_the_same_model_again() {
        for seed in 0..500 {
            let mut random = RandomRecords(seed);
            let mut model = Model::default();
            model.apply(&Record::Begun { id: 7, at: 1, order: Box::new(order()) });
            for nth in 0..120 {
                let records = snapshot(&model);
                assert_eq!(replay(&records), model, "seed {seed}, record {nth}");
                model.apply(&random.next(20));
            }
        }
    }

    #[test]
    fn no_record_of_a_huge_model_is_too_long() {
        let mut model = replay(&[Record::Begun { id: 7, at: 1, order: Box::new(order()) }]);
        let blob = Blob { digest: "sha256:".repeat(10), size: 1, ..Blob::default() };
        let many = Artifact { blobs: vec![blob; 40_000], ..Artifact::default() };
        let long = Artifact { note: "x".repeat(1 << 20), ..Artifact::default() };
        let mut task = crate::model::TaskModel::default();
        task.artifacts.extend([many, long.clone(), Artifact::default(), long]);
        task.artifacts.resize(20_000, Artifact { state: State::Finished, ..Artifact::default() });
        model.tasks = vec![task];
        model.execution.lost_sessions = vec!["https://".repeat(1000); 1000];
        let records = snapshot(&model);
        assert!(records.iter().all(|record| frame::encode(record).is_ok_and(|bytes| bytes.len() < 2 << 20)));
        assert_eq!(replay(&records), model);
    }
}
