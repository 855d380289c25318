//! Runs the kernel's text, one thread after another, over memory that minds every access.
//!
//! As much of PTX as the text uses, by *Parallel Thread Execution ISA*; whatever else is in it ends the test.

use super::TEXT;
use super::list::{List, MOST, THREADS};
use crate::turn::Piece;
use std::collections::HashMap;

/// Device memory: what it holds, and how often each byte was written.
struct Memory {
    bytes: Vec<u8>,
    writes: Vec<u8>,
    /// Stores, by how many bytes each writes.
    stores: HashMap<usize, u64>,
}

/// Where it begins: so that addresses cross a multiple of 4 GiB.
const BASE: u64 = (8 << 32) - (64 << 10);

impl Memory {
    fn new(len: usize) -> Memory {
        let bytes = (0..len as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
        Memory { bytes, writes: vec![0; len], stores: HashMap::new() }
    }

    fn at(&self, address: u64, len: usize) -> usize {
        assert!(address.is_multiple_of(len as u64), "{len} bytes at {address:#x} are not aligned");
        let at = address.wrapping_sub(BASE) as usize;
        assert!(at < self.bytes.len() && at + len <= self.bytes.len(), "{len} bytes at {address:#x}");
        at
    }

    fn load(&self, address: u64, len: usize) -> &[u8] {
        let at = self.at(address, len);
        &self.bytes[at..at + len]
    }

    fn store(&mut self, address: u64, bytes: &[u8]) {
        let at = self.at(address, bytes.len());
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.writes[at..at + bytes.len()].iter_mut().for_each(|count| *count += 1);
        *self.stores.entry(bytes.len()).or_default() += 1;
    }
}

/// One instruction: the predicate it hangs on and what that must be, its name, its operands.
struct Instruction<'a> {
    guard: Option<(&'a str, bool)>,
    name: &'a str,
    operands: Vec<&'a str>,
}

/// The instructions, and where labels lead.
fn read(text: &str) -> (Vec<Instruction<'_>>, HashMap<&str, usize>) {
    let (from, to) = (text.find('{').unwrap(), text.rfind('}').unwrap());
    let (mut code, mut labels) = (Vec::new(), HashMap::new());
    for line in text[from + 1..to].lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        if let Some(label) = line.split(':').next().filter(|_| line.ends_with(':')) {
            labels.insert(label, code.len());
        } else if !line.is_empty() && !line.starts_with(".reg") {
            let line = line.strip_suffix(';').unwrap();
            let (guard, rest) = match line.strip_prefix('@') {
                Some(line) => line.split_once(' ').map(|(guard, rest)| (Some(guard), rest)).unwrap(),
                None => (None, line),
            };
            let guard = guard.map(|guard| (guard.trim_start_matches('!'), !guard.starts_with('!')));
            let (name, operands) = rest.split_once(' ').unwrap_or((rest, ""));
            let operands = operands.split([',', '{', '}', ' ']).filter(|operand| !operand.is_empty());
            code.push(Instruction { guard, name, operands: operands.collect() });
        }
    }
    (code, labels)
}

/// One thread: its registers, predicates among them.
struct Thread<'a> {
    block: u32,
    number: u32,
    registers: HashMap<&'a str, u64>,
    parameters: &'a [u8],
}

impl<'a> Thread<'a> {
    fn run(mut self, code: &[Instruction<'a>], labels: &HashMap<&str, usize>, memory: &mut Memory) {
        let mut next = 0;
        for _ in 0..10_000 {
            let Instruction { guard, name, operands } = &code[next];
            next += 1;
            if guard.is_some_and(|(predicate, wanted)| (self.value(predicate) != 0) != wanted) {
                continue;
            }
            match *name {
                "ret" => return,
                "bra" => next = labels[operands[0]],
                _ => self.step(name, operands, memory),
            }
        }
        panic!("thread {} of block {} does not end", self.number, self.block);
    }

    fn step(&mut self, name: &str, operands: &[&'a str], memory: &mut Memory) {
        if let Some(kind) = name.strip_prefix("ld.global.") {
            let (to, from) = operands.split_at(operands.len() - 1);
            let len = width(kind);
            let bytes = memory.load(self.address(from[0]), len * to.len());
            bytes.chunks(len).zip(to).for_each(|(bytes, to)| {
                self.registers.insert(to, number(bytes));
            });
            return;
        }
        if let Some(kind) = name.strip_prefix("st.global.") {
            let words = operands[1..].iter().map(|from| self.value(from).to_le_bytes());
            let bytes: Vec<u8> = words.flat_map(|word| word[..width(kind)].to_vec()).collect();
            return memory.store(self.address(operands[0]), &bytes);
        }
        let value = |index: usize| self.value(operands[index]);
        let narrow = |index: usize| value(index) as u32;
        let result = match name {
            "ld.param.u32" | "ld.param.u64" => {
                let (at, len) = (self.address(operands[1]) as usize, width(&name[9..]));
                assert!(at.is_multiple_of(len));
                number(&self.parameters[at..at + len])
            }
            "mov.u32" | "mov.b64" | "cvta.to.global.u64" | "cvt.u64.u32" => value(1),
            "cvt.u32.u64" => u64::from(narrow(1)),
            "add.u64" => value(1).wrapping_add(value(2)),
            "add.u32" => u64::from(narrow(1).wrapping_add(narrow(2))),
            "sub.u32" => u64::from(narrow(1).wrapping_sub(narrow(2))),
            "neg.s32" => u64::from(narrow(1).wrapping_neg()),
            "mul.wide.u32" => value(1) * value(2),
            "min.u32" => value(1).min(value(2)),
            "and.b32" => value(1) & value(2),
            "xor.b32" => value(1) ^ value(2),
            "shr.u32" => u64::from(narrow(1) >> narrow(2)),
            "shl.b32" => u64::from(narrow(1) << narrow(2)),
            "selp.u32" => value(if value(3) != 0 { 1 } else { 2 }),
            "setp.ge.u32" => u64::from(value(1) >= value(2)),
            "setp.gt.u32" => u64::from(value(1) > value(2)),
            "setp.lt.u32" => u64::from(value(1) < value(2)),
            "setp.eq.u32" => u64::from(value(1) == value(2)),
            _ => panic!("what is `{name}`?"),
        };
        self.registers.insert(operands[0], result);
    }

    fn value(&self, operand: &str) -> u64 {
        match operand {
            "%ctaid.x" => u64::from(self.block),
            "%tid.x" => u64::from(self.number),
            "copies" => 0,
            "count" => 24 * MOST as u64,
            register if register.starts_with('%') => match self.registers.get(register) {
                Some(value) => *value,
                None => panic!("{register} is read and has no value"),
            },
            number => number.parse().unwrap(),
        }
    }

    /// Of `[register]`, `[parameter]` or `[register+number]`.
    fn address(&self, operand: &str) -> u64 {
        let inner = operand.trim_matches(['[', ']']);
        let (base, offset) = inner.split_once('+').unwrap_or((inner, "0"));
        self.value(base) + offset.parse::<u64>().unwrap()
    }
}

/// Bytes of `u8`, `u32`, `u64` or, for each, of `v4.u32`.
fn width(kind: &str) -> usize {
    match kind {
        "u8" => 1,
        "u32" | "v4.u32" => 4,
        "u64" => 8,
        _ => panic!("what is `{kind}`?"),
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// Runs a launch of copies by offset and with `more` blocks than it needs, and checks that every byte of each destination was
/// written once, with the right one, and no other byte at all.
fn check(copies: &[(u64, u64, u64)], more: u32) -> HashMap<usize, u64> {
    let (code, labels) = read(TEXT);
    let mut memory = Memory::new(256 << 10);
    let pieces = copies.iter().map(|&(src, dst, len)| Piece { src: BASE + src, dst: BASE + dst, len });
    let list = List::of(&pieces.collect::<Vec<_>>());
    let parameters = list.bytes();
    let (mut expected, mut writes) = (memory.bytes.clone(), memory.writes.clone());
    for &(src, dst, len) in copies {
        let (src, dst, len) = (src as usize, dst as usize, len as usize);
        expected[dst..dst + len].copy_from_slice(&memory.bytes[src..src + len]);
        writes[dst..dst + len].fill(1);
    }
    for block in 0..list.blocks() + more {
        for number in 0..THREADS {
            let (registers, parameters) = (HashMap::new(), &parameters);
            Thread { block, number, registers, parameters }.run(&code, &labels, &mut memory);
        }
    }
    let wrong = memory.bytes.iter().zip(&expected).position(|(found, expected)| found != expected);
    assert!(wrong.is_none(), "{copies:?}: byte {wrong:?}");
    assert!(memory.writes == writes, "{copies:?}: a byte was written more or less than once");
    memory.stores
}

#[test]
fn every_length_and_phase_is_copied() {
    let lengths = [1, 16, 31, 100, 5000, 16 << 10, 33_000];
    let mut number = 0;
    for len in lengths {
        for (from, to) in [(0, 0), (5, 5), (0, 4), (7, 3), (2, 0), (15, 14)] {
            number += 1;
            check(&[(number % 3 * 16 + from, (128 << 10) + to, len)], number as u32 % 2);
        }
    }
}

#[test]
fn copies_of_one_launch_are_told_apart() {
    check(&[], 2);
    // As many as there can be, of all lengths up to three pieces; they may read the same bytes.
    let (mut dst, mut copies) = (96 << 10, Vec::new());
    for number in 0..MOST as u64 {
        let len = if number % 60 == 50 { 33_000 } else { number % 23 + 1 };
        copies.push((number * 37 % 20_000, dst, len));
        dst += len + number % 5;
    }
    check(&copies, 1);
}

#[test]
fn words_are_as_wide_as_both_ends_allow() {
    let stores = |from: u64, to: u64| check(&[(from, (128 << 10) + to, 16 << 10)], 0);
    assert_eq!(stores(0, 0), HashMap::from([(16, 1024)]));
    assert_eq!(stores(6, 6), HashMap::from([(1, 16), (16, 1023)]));
    assert_eq!(stores(0, 4), HashMap::from([(4, 4096)]));
    assert_eq!(stores(3, 7), HashMap::from([(1, 4), (4, 4095)]));
    assert_eq!(stores(0, 2), HashMap::from([(1, 16 << 10)]));
}
