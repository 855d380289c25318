//! What is to be fetched ahead: what the program wishes for and what a schedule may want, in the order in which it was asked for.

use crate::{pool::Inner, prefetch::Wish};
use pinned_host::Transfer;
use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

/// Hints that wait, and those that threads are at. Each has a number, so that whoever waits for all there are does not wait for
/// those that come later.
pub(crate) struct Hints<T: Transfer> {
    wishes: VecDeque<(u64, Wish<T>)>,
    /// A schedule may want something fetched. Two such are one.
    poked: Option<(u64, Weak<Inner<T>>)>,
    /// Numbers of those being served: as many as there are threads at most.
    serving: Vec<u64>,
    /// The number of the next.
    next: u64,
}

/// One to serve.
pub(crate) enum Hint<T: Transfer> {
    Wish(Wish<T>),
    Schedule(Weak<Inner<T>>),
}

impl<T: Transfer> Hints<T> {
    pub(crate) const fn new() -> Self {
        Hints { wishes: VecDeque::new(), poked: None, serving: Vec::new(), next: 0 }
    }

    pub(crate) fn wish(&mut self, wish: Wish<T>) {
        let number = self.number();
        self.wishes.push_back((number, wish));
    }

    /// `false`: one waits already.
    pub(crate) fn poke(&mut self, inner: &Arc<Inner<T>>) -> bool {
        let new = self.poked.is_none();
        if new {
            self.poked = Some((self.number(), Arc::downgrade(inner)));
        }
        new
    }

    /// Takes back what a schedule may want.
    pub(crate) fn unpoke(&mut self) {
        self.poked = None;
    }

    /// Takes the wishes back that are `wanted`.
    pub(crate) fn take_wishes(&mut self, wanted: impl Fn(&Wish<T>) -> bool) -> Vec<Wish<T>> {
        let mut taken = Vec::new();
        for _ in 0..self.wishes.len() {
            let Some((number, wish)) = self.wishes.pop_front() else { break };
            match wanted(&wish) {
                true => taken.push(wish),
                false => self.wishes.push_back((number, wish)),
            }
        }
        taken
    }

    /// The oldest that waits, which is being served until [`served`](Self::served).
    pub(crate) fn begin(&mut self) -> Option<(u64, Hint<T>)> {
        let wish = self.wishes.front().map(|(number, _)| *number);
        let poked = self.poked.as_ref().map(|(number, _)| *number);
        let wish_first = wish.is_some_and(|wish| poked.is_none_or(|poked| wish < poked));
        let (number, hint) = match wish_first {
            true => self.wishes.pop_front().map(|(number, wish)| (number, Hint::Wish(wish)))?,
            false => self.poked.take().map(|(number, inner)| (number, Hint::Schedule(inner)))?,
        };
        self.serving.push(number);
        Some((number, hint))
    }

    pub(crate) fn served(&mut self, number: u64) {
        self.serving.retain(|&other| other != number);
    }

    /// How many are being served.
    pub(crate) fn serving(&self) -> usize {
        self.serving.len()
    }

    /// Wishes that wait or, like what a schedule may want, are being served.
    pub(crate) fn wishes(&self) -> usize {
        self.wishes.len() + self.serving.len()
    }

    /// Whether one waits or is being served.
    pub(crate) fn any(&self) -> bool {
        self.poked.is_some() || self.wishes() > 0
    }

    /// Whether one does that came before number `end`.
    pub(crate) fn any_before(&self, end: u64) -> bool {
        let waiting = self.wishes.front().map(|(number, _)| *number);
        let poked = self.poked.as_ref().map(|(number, _)| *number);
        self.serving.iter().copied().chain(waiting).chain(poked).any(|number| number < end)
    }

    /// All there are have smaller numbers.
    pub(crate) fn end(&self) -> u64 {
        self.next
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::{DType, DeviceIndex, SwapPool, TensorSpec};
    use backend_cpu::CpuDevice;

    #[test]
    fn hints_are_served_in_their_order_and_nobody_waits_for_later_ones() {
        let builder = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(1 << 16);
        let pool = builder.host_memory(1 << 16).build().unwrap();
        let [a, b] =
            ["a", "b"].map(|name| pool.create(TensorSpec::new(name, DType::U8, [64]).unwrap(), &[0; 64]));
        let wish = |tensor: &crate::Tensor<CpuDevice>| Wish::new(&tensor.token, DeviceIndex::FIRST).unwrap();
        let mut hints = Hints::new();
        assert!(!hints.any() && hints.begin().is_none());
        hints.wish(wish(&a.unwrap()));
        assert!(hints.poke(&pool.inner) && !hints.poke(&pool.inner), "two are one");
        let end = hints.end();
        let (first, hint) = hints.begin().unwrap();
        assert!(matches!(hint, Hint::Wish(_)));
        hints.wish(wish(&b.unwrap()));
        assert_eq!((hints.serving(), hints.wishes()), (1, 2));
        let (second, hint) = hints.begin().unwrap();
        assert!(matches!(hint, Hint::Schedule(_)), "it came before the second wish");
        assert!(hints.poke(&pool.inner), "that one is being served");
        hints.served(second);
        assert!(hints.any_before(end), "the first wish is being served");
        hints.served(first);
        assert!(hints.any() && !hints.any_before(end), "what waits now came later");
        assert!(hints.any_before(hints.end()));
        assert_eq!(hints.take_wishes(|_| true).len(), 1);
        hints.unpoke();
        assert!(!hints.any());
    }
}
