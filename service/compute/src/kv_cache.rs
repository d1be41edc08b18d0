//! Paged memory for keys and values.

use std::io;
use std::ops::Range;

use bytemuck::Pod;
use half::f16;
use half::slice::HalfFloatSliceExt;
use ternion_engine::{BlockCopy, BlockId};
use ternion_kernel_host::{Arena, Toucher};
use ternion_kernels::float::attention::{
    SEGMENT, SEGMENT_TILES, Scales, TILE, TILES_AHEAD, Tile, Tiles, value_len,
};
use ternion_kernels::team::Team;

use crate::kv_layout::{Layout, Page, Spread, position_bytes};
use crate::kv_precision::KvPrecision;

/// Size of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvConfig {
    /// Pages.
    pub num_blocks: usize,
    /// Tokens a page holds.
    pub block_size: usize,
    /// How keys and values are kept.
    pub precision: KvPrecision,
}

/// Keys and values of every layer, in pages of `block_size` tokens.
///
/// `[layers][kv_heads]`, and of each the pages as [`Layout`] has them: heads come
/// before pages so that each can be given to another worker to write.
pub(crate) struct KvCache {
    memory: Arena,
    kv_heads: usize,
    /// Of one head.
    layout: Layout,
}

/// What a key or value is kept as.
trait Cell: Pod {
    /// Elements of a key, and positions of a value, that are neighbours.
    const TOGETHER: usize = 1;

    /// What the cells of `vector` are to be multiplied with.
    fn scale(_: &[f32]) -> f32 {
        1.0
    }

    /// Stores a part of a vector that has this scale.
    fn keep(part: &[f32], scale: f32, cells: &mut [Self]);
}

impl Cell for f32 {
    fn keep(part: &[f32], _: f32, cells: &mut [f32]) {
        cells.copy_from_slice(part);
    }
}

impl Cell for f16 {
    fn keep(part: &[f32], _: f32, cells: &mut [f16]) {
        cells.convert_from_f32_slice(part);
    }
}

/// Added to a float and taken away again it leaves the nearest integer, ties to
/// even, of anything below 2^22: on a CPU of the baseline the function that
/// rounds is a call for each element.
const ROUND: f32 = 12_582_912.0;

impl Cell for i8 {
    const TOGETHER: usize = 2;

    fn scale(vector: &[f32]) -> f32 {
        vector.iter().fold(0.0_f32, |a, b| a.max(b.abs())) / 127.0
    }

    fn keep(part: &[f32], scale: f32, cells: &mut [i8]) {
        let factor = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (cell, x) in cells.iter_mut().zip(part) {
            *cell = ((x * factor + ROUND) - ROUND) as i8;
        }
    }
}

/// Elements that are converted before they are spread.
const PART: usize = 64;

/// Writes one head's key and value of one token.
fn write<T: Cell>(
    layout: Layout,
    (head, page): (&mut [u8], Page),
    slot: usize,
    key: &[f32],
    value: &[f32],
) {
    let (key_scale, value_scale) = (T::scale(key), T::scale(value));
    let keys: &mut [T] = bytemuck::cast_slice_mut(&mut head[page.keys]);
    keep(key, key_scale, layout.key(slot, T::TOGETHER), keys);
    let values: &mut [T] = bytemuck::cast_slice_mut(&mut head[page.values]);
    keep(value, value_scale, layout.value(slot, T::TOGETHER), values);
    let scales: &mut [f32] = bytemuck::cast_slice_mut(&mut head[page.scales]);
    if !scales.is_empty() {
        scales[slot] = key_scale;
        scales[layout.block_size + slot] = value_scale;
    }
}

fn keep<T: Cell>(vector: &[f32], scale: f32, spread: Spread, cells: &mut [T]) {
    let cells = &mut cells[spread.begin..];
    if spread.stride == spread.together {
        T::keep(vector, scale, &mut cells[..vector.len()]);
        return;
    }
    let mut groups = cells.chunks_mut(spread.stride);
    let mut kept = [T::zeroed(); PART];
    for part in vector.chunks(PART) {
        let kept = &mut kept[..part.len()];
        T::keep(part, scale, kept);
        // In this order: the other would take one group more than there is.
        for (kept, group) in kept.chunks_exact(spread.together).zip(groups.by_ref()) {
            group[..spread.together].copy_from_slice(kept);
        }
    }
}

/// One token's key and value on their way into the cache.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) table: &'a [BlockId],
    pub(crate) position: usize,
    /// `[kv_heads * head_dim]`.
    pub(crate) key: &'a [f32],
    /// Likewise.
    pub(crate) value: &'a [f32],
}

/// The positions of one head that attention looks at.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) layer: usize,
    pub(crate) table: &'a [BlockId],
    pub(crate) kv_head: usize,
    /// Which [`SEGMENT`] positions.
    pub(crate) segment: usize,
    /// How many of them, from its first.
    pub(crate) len: usize,
}

/// Memory for a segment whose tiles don't lie in pages as the kernel wants
/// them: a page of its own that has all of it. Words, so that all kinds of
/// cells are aligned.
#[derive(Default)]
pub(crate) struct Gathered(Vec<u32>);

/// After so many tokens made up contexts repeat themselves.
const NOISE_TOKENS: usize = 61;

impl KvCache {
    /// Reserves the memory. Pages come as they are touched.
    pub(crate) fn reserve(
        config: KvConfig,
        layers: usize,
        kv_heads: usize,
        dim: usize,
    ) -> io::Result<KvCache> {
        let layout = Layout::new(config, dim);
        let heads = layers.checked_mul(kv_heads);
        let bytes = heads.and_then(|heads| heads.checked_mul(layout.bytes()));
        let memory = Arena::reserve(bytes.ok_or(io::ErrorKind::OutOfMemory)?)?;
        Ok(KvCache {
            memory,
            kv_heads,
            layout,
        })
    }

    /// What touches the memory, and the bytes of one head in all pages, of which
    /// it consists: the first pages are at the beginning of each.
    pub(crate) fn toucher(&self) -> (Toucher, usize) {
        (self.memory.toucher(), self.layout.bytes())
    }

    /// Bytes that a token takes in all layers.
    pub(crate) fn token_bytes(
        precision: KvPrecision,
        layers: usize,
        kv_heads: usize,
        dim: usize,
    ) -> usize {
        layers * kv_heads * position_bytes(precision, dim)
    }

    /// Stores keys and values of `num_tokens` tokens in one layer.
    pub(crate) fn write<'a>(
        &mut self,
        team: &Team,
        layer: usize,
        num_tokens: usize,
        entry: impl Fn(usize) -> Entry<'a> + Sync,
    ) {
        let layout = self.layout;
        let bytes = self.kv_heads * layout.bytes();
        let layer = &mut self.memory[layer * bytes..][..bytes];
        let head = |head: usize, pages: &mut [u8]| {
            for token in 0..num_tokens {
                layout.write(entry(token), head, pages);
            }
        };
        // Also of one token: a cache line for each element of a key is most of
        // the time, and those who write a head's are likely to read them next.
        team.rows(layer, layout.bytes(), |_, index, pages| head(index, pages));
    }

    /// Copies pages of all layers, one after the other.
    pub(crate) fn copy(&mut self, copies: &[BlockCopy]) {
        let layout = self.layout;
        for head in self.memory.chunks_exact_mut(layout.bytes()) {
            for copy in copies {
                let (from, to) = (layout.page(copy.from), layout.page(copy.to));
                head.copy_within(from.keys, to.keys.start);
                head.copy_within(from.values, to.values.start);
                head.copy_within(from.scales, to.scales.start);
            }
        }
    }

    /// Writes something to every position of every page.
    pub(crate) fn make_up(&mut self, team: &Team, layers: usize) {
        let layout = self.layout;
        let table: Vec<_> = (0..layout.num_blocks as u32).map(BlockId).collect();
        let width = self.kv_heads * layout.dim;
        // Different from token to token, and of the size that norms leave.
        let noise: Vec<f32> = (0..2 * width + NOISE_TOKENS)
            .map(|i| (i as u32).wrapping_mul(2_654_435_761) as i32 as f32 / (1_u32 << 31) as f32)
            .collect();
        for layer in 0..layers {
            self.write(
                team,
                layer,
                layout.num_blocks * layout.block_size,
                |token| {
                    let noise = &noise[token % NOISE_TOKENS..];
                    Entry {
                        table: &table,
                        position: token,
                        key: &noise[..width],
                        value: &noise[width..][..width],
                    }
                },
            );
        }
    }

    /// All pages of the head in view.
    fn pages_of(&self, view: View<'_>) -> &[u8] {
        let bytes = self.layout.bytes();
        let head = view.layer * self.kv_heads + view.kv_head;
        &self.memory[head * bytes..][..bytes]
    }

    /// Bytes of a segment of one head.
    pub(crate) fn segment_bytes(&self) -> usize {
        self.layout.of_segment().bytes()
    }

    /// Calls `f` with the tiles of the positions in view, and with the first of
    /// what is in view `next` where they need not be gathered.
    pub(crate) fn tiles<R>(
        &self,
        view: View<'_>,
        next: Option<View<'_>>,
        gathered: &mut Gathered,
        f: impl FnOnce(Tiles<'_>, Option<Tiles<'_>>) -> R,
    ) -> R {
        let next = next.filter(|_| self.layout.tile() == TILE);
        match self.layout.precision {
            KvPrecision::F32 => self.tiles_of(view, next, gathered, |tiles, next| {
                f(Tiles::F32(tiles), next.map(Tiles::F32))
            }),
            KvPrecision::F16 => self.tiles_of(view, next, gathered, |tiles, next| {
                f(Tiles::F16(tiles), next.map(Tiles::F16))
            }),
            KvPrecision::Int8 => self.tiles_of(view, next, gathered, |tiles, next| {
                f(Tiles::I8(tiles), next.map(Tiles::I8))
            }),
        }
    }

    fn tiles_of<T: Cell, R>(
        &self,
        view: View<'_>,
        next: Option<View<'_>>,
        gathered: &mut Gathered,
        f: impl FnOnce(&[Tile<'_, T>], Option<&[Tile<'_, T>]>) -> R,
    ) -> R {
        let layout = self.layout;
        let pages = self.pages_of(view);
        let mut tiles = no_tiles::<T, SEGMENT_TILES>();
        let mut first_of_next = no_tiles::<T, TILES_AHEAD>();
        let tiles = if layout.tile() == TILE {
            layout.tiles_from(
                pages,
                view.table,
                view.segment * SEGMENT,
                view.len,
                &mut tiles,
            )
        } else {
            let (layout, page) = layout.gather::<T>(pages, view, gathered);
            layout.tiles_from(page, &[BlockId(0)], 0, view.len, &mut tiles)
        };
        let next = next.map(|next| {
            let len = next.len.min(TILES_AHEAD * TILE);
            let first = next.segment * SEGMENT;
            let pages = self.pages_of(next);
            layout.tiles_from(pages, next.table, first, len, &mut first_of_next)
        });
        f(tiles, next)
    }
}

/// Room for some.
fn no_tiles<'a, T, const N: usize>() -> [Tile<'a, T>; N] {
    std::array::from_fn(|_| Tile {
        keys: &[],
        values: &[],
        scales: None,
    })
}

impl Layout {
    fn write(self, entry: Entry<'_>, head: usize, pages: &mut [u8]) {
        let (page, slot) = self.page_of(entry.table, entry.position);
        let page = (pages, page);
        let part = head * self.dim..(head + 1) * self.dim;
        let (key, value) = (&entry.key[part.clone()], &entry.value[part]);
        match self.precision {
            KvPrecision::F32 => write::<f32>(self, page, slot, key, value),
            KvPrecision::F16 => write::<f16>(self, page, slot, key, value),
            KvPrecision::Int8 => write::<i8>(self, page, slot, key, value),
        }
    }

    /// Copies what is in view to a page of its own, and tells its layout.
    fn gather<'a, T: Cell>(
        self,
        pages: &[u8],
        view: View<'_>,
        gathered: &'a mut Gathered,
    ) -> (Layout, &'a [u8]) {
        let to = self.of_segment();
        gathered.0.resize(to.bytes() / size_of::<u32>(), 0);
        let gathered = bytemuck::cast_slice_mut(&mut gathered.0);
        for slot in 0..view.len {
            let (page, from) = self.page_of(view.table, view.segment * SEGMENT + slot);
            copy::<T>((self, pages, page, from), (to, gathered, slot));
        }
        (to, gathered)
    }

    /// The tiles of `len` positions from `first` on, which begins one.
    fn tiles_from<'a, 'b, T: Cell>(
        self,
        pages: &'a [u8],
        table: &[BlockId],
        first: usize,
        len: usize,
        tiles: &'b mut [Tile<'a, T>],
    ) -> &'b [Tile<'a, T>] {
        let tiles = &mut tiles[..len.div_ceil(TILE)];
        let (mut page, mut slot) = self.page_of(table, first);
        for (index, tile) in tiles.iter_mut().enumerate() {
            if slot == self.block_size {
                (page, slot) = self.page_of(table, first + index * TILE);
            }
            *tile = self.tile_at(pages, &page, slot);
            slot += TILE;
        }
        tiles
    }

    /// The tile from `slot` on of a page.
    #[inline]
    fn tile_at<'a, T: Cell>(self, pages: &'a [u8], page: &Page, slot: usize) -> Tile<'a, T> {
        let part = |range: &Range<usize>| &pages[range.clone()];
        let keys: &[T] = bytemuck::cast_slice(part(&page.keys));
        let values: &[T] = bytemuck::cast_slice(part(&page.values));
        let scales: &[f32] = bytemuck::cast_slice(part(&page.scales));
        let len = value_len(self.dim);
        Tile {
            keys: &keys[slot * self.dim..][..TILE * self.dim],
            values: &values[slot * len..][..TILE * len],
            scales: (!scales.is_empty()).then(|| tile_scales(scales, self.block_size, slot)),
        }
    }
}

/// Copies the key and value of one position and head to another page.
fn copy<T: Cell>(
    (from, source, page, from_slot): (Layout, &[u8], Page, usize),
    (to, target, to_slot): (Layout, &mut [u8], usize),
) {
    let dim = from.dim;
    let to_page = to.page(BlockId(0));

    let groups = |spread: Spread| {
        let all = (spread.begin..).step_by(spread.stride);
        all.take(dim / spread.together)
    };
    let source_keys: &[T] = bytemuck::cast_slice(&source[page.keys]);
    let target_keys: &mut [T] = bytemuck::cast_slice_mut(&mut target[to_page.keys]);
    let (key, to_key) = (
        from.key(from_slot, T::TOGETHER),
        to.key(to_slot, T::TOGETHER),
    );
    for (from, to) in groups(key).zip(groups(to_key)) {
        target_keys[to..][..T::TOGETHER].copy_from_slice(&source_keys[from..][..T::TOGETHER]);
    }

    let source_values: &[T] = bytemuck::cast_slice(&source[page.values]);
    let target_values: &mut [T] = bytemuck::cast_slice_mut(&mut target[to_page.values]);
    let (value, to_value) = (
        from.value(from_slot, T::TOGETHER),
        to.value(to_slot, T::TOGETHER),
    );
    for (from, to) in groups(value).zip(groups(to_value)) {
        target_values[to] = source_values[from];
    }

    let source_scales: &[f32] = bytemuck::cast_slice(&source[page.scales]);
    let target_scales: &mut [f32] = bytemuck::cast_slice_mut(&mut target[to_page.scales]);
    if !source_scales.is_empty() {
        target_scales[to_slot] = source_scales[from_slot];
        target_scales[to.block_size + to_slot] = source_scales[from.block_size + from_slot];
    }
}

/// Scales of sixteen positions from `slot` on, of `len` positions.
fn tile_scales(scales: &[f32], len: usize, slot: usize) -> Scales<'_> {
    let (keys, values) = scales.split_at(len);
    let whole = "a tile begins at the slot";
    Scales {
        keys: keys[slot..].first_chunk().expect(whole),
        values: values[slot..].first_chunk().expect(whole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key and value of each position in view, element by element.
    fn read(cache: &KvCache, view: View<'_>) -> Vec<(Vec<f32>, Vec<f32>)> {
        cache.tiles(
            view,
            None,
            &mut Gathered::default(),
            |tiles, _| match tiles {
                Tiles::F32(tiles) => all(tiles, view.len, cache.layout.dim, |x| x),
                Tiles::F16(tiles) => all(tiles, view.len, cache.layout.dim, f16::to_f32),
                Tiles::I8(tiles) => all(tiles, view.len, cache.layout.dim, f32::from),
            },
        )
    }

    fn all<T: Cell>(
        tiles: &[Tile<'_, T>],
        len: usize,
        dim: usize,
        float: impl Fn(T) -> f32,
    ) -> Vec<(Vec<f32>, Vec<f32>)> {
        (0..len)
            .map(|position| {
                let (tile, slot) = (&tiles[position / TILE], position % TILE);
                let (key, value) = tile
                    .scales
                    .map_or((1.0, 1.0), |s| (s.keys[slot], s.values[slot]));
                let t = T::TOGETHER;
                let keys = (0..dim).map(|i| tile.keys[(i / t * TILE + slot) * t + i % t]);
                let values =
                    (0..dim).map(|i| tile.values[(slot / t * value_len(dim) + i) * t + slot % t]);
                (
                    keys.map(|x| float(x) * key).collect(),
                    values.map(|x| float(x) * value).collect(),
                )
            })
            .collect()
    }

    #[test]
    fn what_is_written_is_read_by_head_and_position() {
        // More than one part, and not whole vectors.
        const DIM: usize = 72;
        let team = Team::new(2);
        // Element `i` of a head at a position. Exact in every precision: the
        // largest is 127 / 2, so that int8's scale is a half.
        let key = |position: usize, head: usize, i: usize| match i {
            0 => 63.5,
            _ => ((position * 7 + head * 50 + i) % 100) as f32 / 2.0 - 20.0,
        };
        for (block_size, len) in [(1, 9), (6, 300), (16, 300), (32, 300), (40, 300)] {
            let num_blocks = 300_usize.div_ceil(block_size) + 3;
            // Pages in no order.
            let table: Vec<_> = (0..num_blocks)
                .map(|i| BlockId((i * 5 % num_blocks) as u32))
                .collect();
            for precision in [KvPrecision::F32, KvPrecision::F16, KvPrecision::Int8] {
                let config = KvConfig {
                    num_blocks,
                    block_size,
                    precision,
                };
                let mut cache = KvCache::reserve(config, 2, 2, DIM).expect("there is memory");
                let tokens: Vec<Vec<f32>> = (0..len)
                    .map(|p| (0..2 * DIM).map(|i| key(p, i / DIM, i % DIM)).collect())
                    .collect();
                let negative: Vec<Vec<f32>> = tokens
                    .iter()
                    .map(|token| token.iter().map(|x| -x).collect())
                    .collect();
                let entry = |position: usize| Entry {
                    table: &table,
                    position,
                    key: &tokens[position],
                    value: &negative[position],
                };
                // One alone, then many at once.
                cache.write(&team, 1, 1, entry);
                cache.write(&team, 1, len - 1, |token| entry(token + 1));
                for (segment, len) in [(0, len.min(SEGMENT)), (1, len.saturating_sub(SEGMENT))] {
                    let view = |layer, kv_head| View {
                        layer,
                        table: &table,
                        kv_head,
                        segment,
                        len,
                    };
                    for head in 0..2 {
                        for (slot, (k, v)) in read(&cache, view(1, head)).iter().enumerate() {
                            let position = segment * SEGMENT + slot;
                            let want = &tokens[position][head * DIM..][..DIM];
                            let how = format!("{precision}, pages of {block_size}, {position}");
                            assert_eq!(k, want, "{how}");
                            assert_eq!(v, &negative[position][head * DIM..][..DIM], "{how}");
                        }
                    }
                    let untouched = read(&cache, view(0, 1));
                    assert!(
                        untouched
                            .iter()
                            .flat_map(|(k, v)| k.iter().chain(v))
                            .all(|x| *x == 0.0)
                    );
                }
            }
        }
    }

    #[test]
    fn a_copied_page_is_what_it_was_in_all_layers_and_heads() {
        const DIM: usize = 6;
        for (block_size, precision) in [(3, KvPrecision::Int8), (16, KvPrecision::F16)] {
            let config = KvConfig {
                num_blocks: 4,
                block_size,
                precision,
            };
            let mut cache = KvCache::reserve(config, 2, 2, DIM).expect("there is memory");
            cache.make_up(&Team::new(1), 2);
            let page = |cache: &KvCache, page: u32| -> Vec<_> {
                let all = (0..4).flat_map(|n| {
                    let view = View {
                        layer: n / 2,
                        table: &[BlockId(page)],
                        kv_head: n % 2,
                        segment: 0,
                        len: block_size,
                    };
                    read(cache, view)
                });
                all.collect()
            };
            let before = [0, 1, 2, 3].map(|n| page(&cache, n));
            assert!(before[1..].iter().all(|other| *other != before[0]));
            // The second one copies what the first one has copied.
            let copies = [(3, 1), (1, 2)].map(|(from, to)| BlockCopy {
                from: BlockId(from),
                to: BlockId(to),
            });
            cache.copy(&copies);
            let after = [0, 1, 2, 3].map(|n| page(&cache, n));
            for (page, is) in [0, 3, 3, 3].into_iter().enumerate() {
                assert_eq!(after[page], before[is], "{precision}, page {page}");
            }
        }
    }

    #[test]
    fn each_precision_rounds_as_it_says() {
        // 1 + 2^-11 lies half-way between two values of f16 and goes to the
        // even one; of int8 the largest keeps its value and a small one is the
        // nearest of 127 steps.
        let key = [1.0 + 1.0 / 2048.0, 0.3];
        let steps = (1.0 + 1.0 / 2048.0) / 127.0;
        let wants = [
            (KvPrecision::F32, key),
            (KvPrecision::F16, [1.0, f16::from_f32(0.3).to_f32()]),
            (KvPrecision::Int8, [127.0 * steps, 38.0 * steps]),
        ];
        for (precision, want) in wants {
            let config = KvConfig {
                num_blocks: 1,
                block_size: 1,
                precision,
            };
            let mut cache = KvCache::reserve(config, 1, 1, 2).expect("there is memory");
            let table = [BlockId(0)];
            let entry = Entry {
                table: &table,
                position: 0,
                key: &key,
                value: &[0.0, 0.0],
            };
            cache.write(&Team::new(1), 0, 1, |_| entry);
            let view = View {
                layer: 0,
                table: &table,
                kv_head: 0,
                segment: 0,
                len: 1,
            };
            assert_eq!(
                read(&cache, view),
                [(want.to_vec(), vec![0.0, 0.0])],
                "{precision}"
            );
        }
    }
}
