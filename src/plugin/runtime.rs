//! The WebAssembly runtime: how guests are compiled and interrupted.
//!
//! There are two. Scheduling guests run to completion on the calling thread; the others
//! share asynchronous workers and yield at each tick. Both count time in ticks, made by a thread
//! of their own: a busy worker pool must never stop the clock that interrupts guests.

use std::{
    thread,
    time::{Duration, Instant},
};

use wasmtime::{Config, Engine, OptLevel, WasmFeatures};

use super::quota::Pool;

/// The runtimes and what their guests share.
#[derive(Clone)]
pub(super) struct Runtime {
    /// For filters and strategies.
    pub(super) scheduling: Ticking,
    /// For discovery backends and volume drivers.
    pub(super) waiting: Ticking,
    /// The memory of all guests.
    pub(super) pool: Pool,
}

/// A wasmtime engine and the length of its ticks.
#[derive(Clone)]
pub(super) struct Ticking {
    pub(super) wasm: Engine,
    tick: Duration,
}

impl Runtime {
    pub(super) fn try_new(total_memory_bytes: usize) -> wasmtime::Result<Self> {
        Ok(Self {
            scheduling: Ticking::try_new("plugin-clock", Duration::from_millis(5))?,
            waiting: Ticking::try_new("plugin-clock-io", Duration::from_millis(10))?,
            pool: Pool::new(total_memory_bytes),
        })
    }
}

impl Ticking {
    fn try_new(thread_name: &str, tick: Duration) -> wasmtime::Result<Self> {
        let wasm = Engine::new(&config())?;
        let weak = wasm.weak();
        // The thread ends once nobody holds the runtime any more.
        thread::Builder::new()
            .name(thread_name.to_owned())
            .spawn(move || {
                let mut next = Instant::now();
                while let Some(wasm) = weak.upgrade() {
                    wasm.increment_epoch();
                    drop(wasm);
                    next += tick;
                    let now = Instant::now();
                    // After a pause of the machine, ticks are not made up for: guests did not run.
                    next = next.max(now);
                    thread::sleep(next - now);
                }
            })?;
        Ok(Self { wasm, tick })
    }

    /// How many ticks from now at least `time` has passed.
    pub(super) fn ticks(&self, time: Duration) -> u64 {
        let whole = time.as_nanos().div_ceil(self.tick.as_nanos());
        // The tick under way may end at once.
        u64::try_from(whole).unwrap_or(u64::MAX / 2) + 1
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .concurrency_support(false)
        .cranelift_opt_level(OptLevel::Speed)
        .max_wasm_stack(512 << 10);
    // What no guest toolchain emits by default stays off: less code to be wrong in.
    let off = WasmFeatures::THREADS
        | WasmFeatures::SHARED_EVERYTHING_THREADS
        | WasmFeatures::MEMORY64
        | WasmFeatures::MULTI_MEMORY
        | WasmFeatures::TAIL_CALL
        | WasmFeatures::RELAXED_SIMD
        | WasmFeatures::GC
        | WasmFeatures::FUNCTION_REFERENCES
        | WasmFeatures::EXCEPTIONS
        | WasmFeatures::STACK_SWITCHING
        | WasmFeatures::CM_MAP
        | WasmFeatures::CM_GC
        | WasmFeatures::CM_THREADING
        | WasmFeatures::CM_ERROR_CONTEXT
        | WasmFeatures::CM_FIXED_LENGTH_LISTS;
    config.wasm_features(off, false);
    config
}
