//! Uploads in parts: parts go to the staging file at their offsets, in any order; the name comes at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::FutureExt as _;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::blocking;
use super::disk::{Disk, LocalDurableError, Staged, Target};

/// One upload. Dropped without an end, it leaves nothing.
#[derive(Debug)]
pub(super) struct Upload {
    disk: Arc<Disk>,
    target: Target,
    staged: Option<Arc<Staged>>,
    offset: u64,
    written: Arc<AtomicU64>,
}

impl Upload {
    pub(super) fn new(disk: Arc<Disk>, target: Target, staged: Staged) -> Self {
        Self { disk, target, staged: Some(Arc::new(staged)), offset: 0, written: Arc::default() }
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let start = self.offset;
        self.offset += data.content_length() as u64;
        let Some(staged) = self.staged.clone() else {
            return async { Err(LocalDurableError::Incomplete.into()) }.boxed();
        };
        let written = Arc::clone(&self.written);
        blocking(move || {
            let mut at = start;
            for chunk in data.iter() {
                staged.write_at(chunk, at)?;
                at += chunk.len() as u64;
            }
            written.fetch_add(at - start, Ordering::AcqRel);
            Ok(())
        })
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        // A part that failed, was dropped, or still runs is a hole in the object.
        let whole = self.written.load(Ordering::Acquire) == self.offset;
        let staged = self.staged.take().filter(|_| whole).and_then(Arc::into_inner);
        let staged = staged.ok_or(LocalDurableError::Incomplete)?;
        let (disk, target) = (Arc::clone(&self.disk), self.target.clone());
        blocking(move || disk.name(staged, &target)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        let staged = self.staged.take();
        blocking(move || {
            drop(staged);
            Ok(())
        })
        .await
    }
}
