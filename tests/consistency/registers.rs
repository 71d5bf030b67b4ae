//! What is known about every register: the newest version that was acknowledged, and the newest that was ever sent.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use crate::random::Random;
use crate::schema::Family;

/// How many acknowledged writes readers may choose from.
const RECENT: usize = 64;
/// A register written within this time is one whose reads prove something.
pub const HOT_MS: u64 = 1000;

/// A row whose version only grows.
#[derive(Debug)]
pub struct Register {
    acknowledged: AtomicI64,
    attempted: AtomicI64,
    /// When the newest acknowledgment came; 0: never.
    acknowledged_at: AtomicU64,
    /// Somebody writes it: one writer at a time.
    taken: AtomicBool,
}

/// All registers of a run: `per_family` of each family, one after another.
#[derive(Debug)]
pub struct Registers {
    families: &'static [Family],
    per_family: usize,
    all: Vec<Register>,
    /// Registers whose writes were acknowledged last.
    recent: Vec<AtomicU32>,
    written: AtomicUsize,
    start: Instant,
}

impl Registers {
    pub fn new(families: &'static [Family], per_family: usize) -> Self {
        let all = families.iter().flat_map(|family| {
            (0..per_family).map(|_| Register {
                acknowledged: AtomicI64::new(family.first),
                attempted: AtomicI64::new(family.first),
                acknowledged_at: AtomicU64::new(0),
                taken: AtomicBool::new(false),
            })
        });
        Self {
            families,
            per_family,
            all: all.collect(),
            recent: (0..RECENT).map(|_| AtomicU32::new(0)).collect(),
            written: AtomicUsize::new(0),
            start: Instant::now(),
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn per_family(&self) -> usize {
        self.per_family
    }

    pub fn families(&self) -> &'static [Family] {
        self.families
    }

    pub fn family(&self, register: usize) -> usize {
        register / self.per_family
    }

    /// Its `id` in the table.
    pub fn id(&self, register: usize) -> i32 {
        (register % self.per_family) as i32 + 1
    }

    pub fn at(&self, family: usize, id: i32) -> usize {
        family * self.per_family + (id as usize - 1)
    }

    /// Every read that begins from now on must see this.
    pub fn acknowledged(&self, register: usize) -> i64 {
        self.all[register].acknowledged.load(Ordering::SeqCst)
    }

    /// No read that has ended may have seen more than this.
    pub fn attempted(&self, register: usize) -> i64 {
        self.all[register].attempted.load(Ordering::SeqCst)
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }

    /// Milliseconds since its newest write was acknowledged.
    pub fn age_ms(&self, register: usize) -> Option<u64> {
        let at = self.all[register].acknowledged_at.load(Ordering::Relaxed);
        (at > 0).then(|| self.now_ms().saturating_sub(at))
    }

    /// One of the registers written last, if any was.
    pub fn recent(&self, random: &mut Random) -> Option<usize> {
        let written = self.written.load(Ordering::Relaxed).min(RECENT);
        if written == 0 {
            return None;
        }
        Some(self.recent[random.index(written)].load(Ordering::Relaxed) as usize)
    }

    /// Takes a register for writing its next version; `None` if another writer has it, or if it can grow no more.
    pub fn claim(&self, register: usize) -> Option<Claim<'_>> {
        let one = &self.all[register];
        if one.taken.swap(true, Ordering::SeqCst) {
            return None;
        }
        let version = one.attempted.load(Ordering::SeqCst) + 1;
        let claim = Claim { registers: self, register, version };
        if version > self.families[self.family(register)].last {
            return None;
        }
        one.attempted.store(version, Ordering::SeqCst);
        Some(claim)
    }
}

/// The right to write one version of one register; given back when dropped. From the moment it is given, that
/// version may be seen.
#[derive(Debug)]
pub struct Claim<'a> {
    registers: &'a Registers,
    pub register: usize,
    pub version: i64,
}

impl Claim<'_> {
    pub fn id(&self) -> i32 {
        self.registers.id(self.register)
    }

    /// The commit was acknowledged.
    pub fn acknowledge(&self) {
        let one = &self.registers.all[self.register];
        one.acknowledged.fetch_max(self.version, Ordering::SeqCst);
        one.acknowledged_at.store(self.registers.now_ms(), Ordering::Relaxed);
        let at = self.registers.written.fetch_add(1, Ordering::Relaxed);
        self.registers.recent[at % RECENT].store(self.register as u32, Ordering::Relaxed);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.registers.all[self.register].taken.store(false, Ordering::SeqCst);
    }
}
