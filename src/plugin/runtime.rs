//! The WebAssembly runtime: how guests are compiled and interrupted.
//!
//! There are two. Scheduling guests run to completion on the calling thread; the others
//! share asynchronous workers and yield at each tick. Both count time in ticks, made by a thread
//! of their own: a busy worker pool must never stop the clock that interrupts guests. While no guest
//! runs, the clock stands still, so that an idle daemon does not wake up hundreds of times a second.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
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

/// How many ticks the clock goes on after the last guest has run: starting it costs more than a tick.
const LINGER: u32 = 100;

/// A wasmtime engine and the length of its ticks.
#[derive(Clone)]
pub(super) struct Ticking {
    pub(super) wasm: Engine,
    tick: Duration,
    clock: Arc<Clock>,
}

/// The thread that makes ticks; it ends with this.
struct Clock {
    shared: Arc<Shared>,
    thread: Thread,
}

/// What the clock knows of those it ticks for.
#[derive(Default)]
struct Shared {
    /// How many guests run.
    running: AtomicUsize,
    /// Whether the thread is about to wait until one runs, or does.
    is_parked: AtomicBool,
    has_ended: AtomicBool,
}

/// A guest may run as long as this lives: there are ticks.
pub(super) struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.shared.has_ended.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

impl Shared {
    /// Makes ticks until the clock is dropped.
    fn tick(&self, wasm: &Engine, tick: Duration) {
        let mut next = Instant::now();
        let mut idle = 0;
        while !self.has_ended.load(Ordering::SeqCst) {
            wasm.increment_epoch();
            idle = match self.running.load(Ordering::SeqCst) {
                0 => idle + 1,
                _ => 0,
            };
            if idle >= LINGER {
                self.park();
                idle = 0;
            }
            next += tick;
            let now = Instant::now();
            // After a pause, ticks are not made up for: guests did not run.
            next = next.max(now);
            thread::sleep(next - now);
        }
    }

    /// Waits until a guest runs or the clock is dropped. Whoever comes after the last look sees
    /// that there is a wait to end, which then ends before it begins.
    fn park(&self) {
        self.is_parked.store(true, Ordering::SeqCst);
        let is_idle = || {
            let has_ended = self.has_ended.load(Ordering::SeqCst);
            self.running.load(Ordering::SeqCst) == 0 && !has_ended
        };
        while is_idle() {
            thread::park();
        }
        self.is_parked.store(false, Ordering::SeqCst);
    }
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
        let shared = Arc::new(Shared::default());
        let (ticks, engine) = (Arc::clone(&shared), wasm.clone());
        let started = thread::Builder::new()
            .name(thread_name.to_owned())
            .spawn(move || ticks.tick(&engine, tick))?;
        let thread = started.thread().clone();
        Ok(Self {
            wasm,
            tick,
            clock: Arc::new(Clock { shared, thread }),
        })
    }

    /// Has the clock tick as long as what is returned lives, which must be before a guest's deadline
    /// is set.
    pub(super) fn run(&self) -> Running {
        let shared = &self.clock.shared;
        shared.running.fetch_add(1, Ordering::SeqCst);
        if shared.is_parked.load(Ordering::SeqCst) {
            self.clock.thread.unpark();
        }
        Running(Arc::clone(shared))
    }

    /// Has the clock tick whenever the guest behind a future may run, and not while it waits for
    /// its host.
    pub(super) async fn while_polled<F: Future>(&self, guest: F) -> F::Output {
        let mut guest = pin!(guest);
        std::future::poll_fn(|context| {
            let _running = self.run();
            guest.as_mut().poll(context)
        })
        .await
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

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    /// A module whose function `run` is an endless loop: type, function, export, code.
    const ENDLESS: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\
        \x07\x07\x01\x03run\0\0\x0a\x09\x01\x07\0\x03\x40\x0c\0\x0b\x0b";

    /// Waits for what takes some ticks.
    fn until(what: &str, holds: impl Fn() -> bool) {
        let begin = Instant::now();
        while !holds() {
            assert!(begin.elapsed() < Duration::from_secs(30), "{what}");
            thread::sleep(TICK);
        }
    }

    fn is_parked(runtime: &Ticking) -> bool {
        runtime.clock.shared.is_parked.load(Ordering::SeqCst)
    }

    #[test]
    fn the_clock_stands_still_while_no_guest_runs() {
        let runtime = Ticking::try_new("test-clock", TICK).unwrap();
        for _ in 0..3 {
            until("it stands", || is_parked(&runtime));
            let running = runtime.run();
            until("it ticks", || !is_parked(&runtime));
            drop(running);
        }
    }

    #[test]
    fn a_guest_that_runs_longer_than_the_clock_lingers_is_still_timed() {
        let runtime = Ticking::try_new("test-clock", TICK).unwrap();
        until("it stands", || is_parked(&runtime));
        let mut store = wasmtime::Store::new(&runtime.wasm, ());
        let module = wasmtime::Module::new(&runtime.wasm, ENDLESS).unwrap();
        let _running = runtime.run();
        store.set_epoch_deadline(1);
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        let run = instance
            .get_typed_func::<(), ()>(&mut store, "run")
            .unwrap();
        store.set_epoch_deadline(u64::from(3 * LINGER));
        let error = run.call(&mut store, ()).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&wasmtime::Trap::Interrupt));
    }
}
