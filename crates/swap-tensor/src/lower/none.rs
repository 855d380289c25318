//! No lower tier is compiled in: none of these has a value.

use crate::SwapError;
use core::{convert::Infallible, marker::PhantomData};
use pinned_host::{SliceOf, Transfer};
use std::time::Instant;

#[derive(Debug, Clone)]
pub(crate) struct Lower(Infallible);

#[derive(Debug, Clone)]
pub(crate) struct LowerCopy(Infallible);

pub(crate) struct Piece(Infallible);

pub(crate) struct Reading<T>(Infallible, PhantomData<T>);

impl LowerCopy {
    pub(crate) fn pieces(&self) -> &[Piece] {
        match self.0 {}
    }
}

impl Piece {
    pub(crate) fn buffer_bytes(&self, _most: usize, _grain: u64) -> usize {
        match self.0 {}
    }

    pub(crate) fn bytes(&self) -> u64 {
        match self.0 {}
    }

    pub(crate) fn read<T: Transfer>(&self, _slice: SliceOf<T>) -> Reading<T> {
        match self.0 {}
    }
}

impl<T: Transfer> Reading<T> {
    pub(crate) fn wait(self, _until: Instant, _name: &str) -> Result<(SliceOf<T>, usize), SwapError> {
        match self.0 {}
    }
}

pub(crate) struct Writing<T>(Infallible, PhantomData<T>);

impl<T: Transfer> Writing<T> {
    pub(crate) fn wait(self) -> (Result<Piece, SwapError>, Option<SliceOf<T>>) {
        match self.0 {}
    }
}

impl Lower {
    pub(crate) fn register<T: Transfer>(&self, _slice: SliceOf<T>) {
        match self.0 {}
    }

    pub(crate) fn write<T: Transfer>(
        &self,
        _slice: SliceOf<T>,
        _bytes: u64,
        _piece: u64,
    ) -> (Option<SliceOf<T>>, Result<LowerCopy, SwapError>) {
        match self.0 {}
    }

    pub(crate) fn write_pack(&self, _contents: &[&[u8]]) -> Result<Vec<LowerCopy>, SwapError> {
        match self.0 {}
    }

    pub(crate) fn tidy(&self) {
        match self.0 {}
    }

    pub(crate) fn write_piece<T: Transfer>(
        &self,
        _slice: SliceOf<T>,
        _bytes: u64,
    ) -> Result<Writing<T>, SwapError> {
        match self.0 {}
    }

    pub(crate) fn copy(&self, _pieces: Vec<Piece>) -> LowerCopy {
        match self.0 {}
    }

    pub(crate) fn bytes(&self) -> u64 {
        match self.0 {}
    }

    #[cfg(feature = "track")]
    pub(crate) fn capacity(&self) -> u64 {
        match self.0 {}
    }
}
