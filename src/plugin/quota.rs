//! Memory and tables of one instance, and the memory of all of them together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use wasmtime::ResourceLimiter;

use super::limits::Limits;

/// Linear memory of all plugins together.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    used: Arc<AtomicUsize>,
    limit: usize,
}

impl Pool {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self {
            used: Arc::default(),
            limit: limit_bytes,
        }
    }
}

/// What one instance may take. Its memory goes back to the pool when it is dropped.
#[derive(Debug)]
pub(super) struct Quota {
    limits: Limits,
    used: usize,
    pool: Pool,
}

/// A limit that an instance ran into; the call ends with this error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Exceeded(String);

impl Quota {
    pub(super) fn new(limits: Limits, pool: Pool) -> Self {
        Self {
            limits,
            used: 0,
            pool,
        }
    }

    /// What the instance may take.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bytes of linear memory in use. Linear memory never shrinks.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    fn take(&mut self, bytes: usize) -> Result<(), Exceeded> {
        if self.used.saturating_add(bytes) > self.limits.memory_bytes {
            return Err(Exceeded(format!(
                "wants more memory than its limit of {} MiB",
                self.limits.memory_bytes >> 20
            )));
        }
        let before = self.pool.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.pool.limit {
            self.pool.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Exceeded(format!(
                "wants more memory than the {} MiB all plugins share",
                self.pool.limit >> 20
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
        let most = self.limits.table_elements;
        if desired > most {
            return Err(Exceeded(format!("wants more than {most} table elements")).into());
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.limits.instances
    }

    fn tables(&self) -> usize {
        self.limits.tables
    }

    fn memories(&self) -> usize {
        self.limits.memories
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Kind;

    const TOTAL: usize = 1 << 30;

    fn limits(memory_bytes: usize) -> Limits {
        Limits {
            memory_bytes,
            ..Limits::for_kind(Kind::Filter)
        }
    }

    #[test]
    fn memory_is_limited_for_one_and_for_all() {
        let pool = Pool::new(TOTAL);
        let mut one = Quota::new(limits(TOTAL), pool.clone());
        one.memory_growing(0, TOTAL / 2, None).unwrap();
        let mut other = Quota::new(limits(usize::MAX), pool.clone());
        other
            .memory_growing(0, TOTAL / 2 + 1, None)
            .expect_err("all plugins together have too much");
        one.memory_growing(TOTAL / 2, TOTAL + 1, None)
            .expect_err("one plugin has too much");
        drop(one);
        other.memory_growing(0, TOTAL / 2 + 1, None).unwrap();
    }
}
