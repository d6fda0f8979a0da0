//! Memory and tables of one instance, and the memory of all of them together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use wasmtime::ResourceLimiter;

use super::limits::{INSTANCES, MEMORIES, TABLE_ELEMENTS, TABLES, TOTAL_MEMORY_BYTES};

/// Linear memory of all plugins together.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool {
    used: Arc<AtomicUsize>,
}

/// What one instance may take. Its memory goes back to the pool when it is dropped.
#[derive(Debug)]
pub(super) struct Quota {
    limit: usize,
    used: usize,
    pool: Pool,
}

/// A limit that an instance ran into; the call ends with this error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Exceeded(String);

impl Quota {
    pub(super) fn new(memory_bytes: usize, pool: Pool) -> Self {
        Self {
            limit: memory_bytes,
            used: 0,
            pool,
        }
    }

    /// Bytes of linear memory in use. Linear memory never shrinks.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    fn take(&mut self, bytes: usize) -> Result<(), Exceeded> {
        if self.used + bytes > self.limit {
            return Err(Exceeded(format!(
                "wants more memory than its limit of {} MiB",
                self.limit >> 20
            )));
        }
        let before = self.pool.used.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > TOTAL_MEMORY_BYTES {
            self.pool.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Exceeded(format!(
                "wants more memory than the {} MiB all plugins share",
                TOTAL_MEMORY_BYTES >> 20
            )));
        }
        self.used += bytes;
        Ok(())
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        self.pool.used.fetch_sub(self.used, Ordering::Relaxed);
    }
}

impl ResourceLimiter for Quota {
    // An error ends the call, where `false` would leave it to the guest to notice.
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.take(desired.saturating_sub(current))?;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS {
            return Err(
                Exceeded(format!("wants more than {TABLE_ELEMENTS} table elements")).into(),
            );
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        TABLES
    }

    fn memories(&self) -> usize {
        MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_limited_for_one_and_for_all() {
        let pool = Pool::default();
        let mut one = Quota::new(TOTAL_MEMORY_BYTES, pool.clone());
        one.memory_growing(0, TOTAL_MEMORY_BYTES / 2, None).unwrap();
        let mut other = Quota::new(usize::MAX, pool.clone());
        other
            .memory_growing(0, TOTAL_MEMORY_BYTES / 2 + 1, None)
            .expect_err("all plugins together have too much");
        one.memory_growing(TOTAL_MEMORY_BYTES / 2, TOTAL_MEMORY_BYTES + 1, None)
            .expect_err("one plugin has too much");
        drop(one);
        other
            .memory_growing(0, TOTAL_MEMORY_BYTES / 2 + 1, None)
            .unwrap();
    }
}
