//! What fails on one device, and the others.

use super::support::{A, B, sim, states, tensor, value, write};
use backend_cpu::sim::{Call, Fault};
use swap_tensor::{SlotState, SwapError};

#[test]
fn a_lost_device_takes_only_its_own_copies() {
    let pool = sim(3, (2, 2), 8);
    let (on_a, on_b, both) = (tensor(&pool, "a", 1), tensor(&pool, "b", 2), tensor(&pool, "both", 3));
    write(&on_a, A, 11);
    write(&on_b, B, 12);
    write(&both, A, 13);
    assert_eq!(value(&both, B), 13);
    assert!(both.evict_at(A), "the other device has it");
    assert_eq!(value(&both, A), 13);
    pool.devices().nth(1).unwrap().1.lose();
    // Its only copy went with the device: to a lease on another that is what there is to say.
    assert!(matches!(on_b.read().map(drop), Err(SwapError::NoValidCopy { device: SlotState::Lost, .. })));
    assert!(matches!(on_a.read_at(B).map(drop), Err(error) if error.is_device_lost()));
    assert!(pool.device_stats(B).unwrap().lost && !pool.device_stats(A).unwrap().lost);
    assert_eq!((value(&on_a, A), value(&both, A)), (11, 13));
    assert_eq!(states(&both), [SlotState::Valid, SlotState::Lost]);
    on_a.swap_out().unwrap();
    write(&on_a, A, 21);
    assert_eq!(value(&on_a, A), 21);
    pool.check().unwrap();
}

/// A copy down that fails is told to who uses its device, and not to a lease on another that makes room meanwhile.
#[test]
fn a_failure_is_told_to_who_uses_the_device() {
    let pool = sim(9, (1, 1), 8);
    let [a, b, next] = ["a", "b", "next"].map(|name| tensor(&pool, name, 1));
    write(&a, A, 2);
    write(&b, B, 3);
    let fail = |at: usize| pool.devices().nth(at).unwrap().1.inject(Call::Download, 1, Fault::Fail);
    fail(1);
    pool.prefetch_at(B, &[&next]).unwrap(); // a hint: nobody hears of it yet
    pool.wait_prefetch();
    assert_eq!(
        (pool.device_stats(B).unwrap().failed_transfers, b.state_at(B).unwrap()),
        (1, SlotState::Valid)
    );
    fail(0);
    assert_eq!(value(&next, A), 1, "another try, and no failure of the other device");
    assert!(matches!(pool.settle(), Err(SwapError::Device { .. })), "the first one, of the second device");
    pool.settle().unwrap();
    assert_eq!((value(&a, A), value(&b, B)), (2, 3));
    pool.check().unwrap();
}
