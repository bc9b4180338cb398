// The best path of each sequence through the tags of a linear-chain CRF, by Viterbi's algorithm.
//
// A path's score is start[first tag] + the emissions of its tags + the transitions between them +
// end[last tag], added in this order. Of equal scores the lowest tag's counts, and a NaN counts as
// more than any number, as in torch.max. viterbi.py has the same in torch, which gives the same bits.

#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "products.h"
#include "vectors.h"
#include "workspace.h"

namespace bilstm {

using Tag = std::int16_t;

// What viterbi.py passes, here and below. C is the number of tags, and Number the type of scores.
struct Chain {
  Index tags;
  Index stride;             // C rounded up to whole vectors
  const void* transitions;  // [C, stride], from and to; what is beyond C is not looked at
  const void* start;        // [C]
  const void* end;          // [C]
};

// B sequences with N steps in all, or the next steps of each.
struct PathBatch {
  Index sequences;
  const Index* lengths;     // [B], longest first
  const Index* first_rows;  // [B], in the same order
  const Index* positions;   // [B], in the same order: the caller's
  Index begin;              // whether these are the sequences' first steps
  const void* emissions;    // [N, C]
  void* scores;             // [B, C], in the caller's order: of the best path to each tag so far
  Tag* backpointers;        // [N, C]: the tag before each tag on the best path to it
  Index* path;              // [N]
  void* best;               // [B], in the caller's order: the path's score
};

template <class Number>
class Viterbi {
  using Whole = std::conditional_t<sizeof(Number) == 4, std::int32_t, std::int64_t>;
  static constexpr int kCount = kLanes * int(sizeof(float)) / int(sizeof(Number));
  typedef Number Scores __attribute__((vector_size(sizeof(Number) * kCount)));
  typedef Whole Tags __attribute__((vector_size(sizeof(Whole) * kCount)));
  static constexpr int kVectors = 4;  // that advance together: as many as registers hold

 public:
  Viterbi(const Chain& chain, const PathBatch& batch)
      : tags_(chain.tags),
        stride_(chain.stride),
        transitions_(static_cast<const Number*>(chain.transitions)),
        start_(static_cast<const Number*>(chain.start)),
        end_(static_cast<const Number*>(chain.end)),
        batch_(batch) {}

  // Walks the steps of the sequence of a rank: from scores, or from the start, to scores, and
  // backpointers. A first step has no tag before it: its backpointers are 0.
  void advance(Index rank) const {
    static thread_local Buffer<Number> arriving_buffer;
    static thread_local Buffer<Whole> origins_buffer;
    Number* arriving = arriving_buffer.reserve(stride_);
    Whole* origins = origins_buffer.reserve(stride_);
    const Index first = batch_.first_rows[rank], last = first + batch_.lengths[rank];
    Number* scores = static_cast<Number*>(batch_.scores) + batch_.positions[rank] * tags_;
    for (Index row = first; row < last; ++row) {
      if (row == first && batch_.begin != 0) {
        std::copy(start_, start_ + tags_, arriving);
        std::fill(origins, origins + tags_, Whole(0));
      } else {
        share_out<kVectors>(stride_ / kCount, [&](Index vector, Index own) {
          with_constant<kVectors>(own, [&](auto constant) {
            arrive<decltype(constant)::value>(scores, vector * kCount, arriving, origins);
          });
        });
      }
      const Number* emissions = static_cast<const Number*>(batch_.emissions) + row * tags_;
      Tag* backpointers = batch_.backpointers + row * tags_;
      for (Index tag = 0; tag < tags_; ++tag) {
        scores[tag] = arriving[tag] + emissions[tag];
        backpointers[tag] = Tag(origins[tag]);
      }
    }
  }

  // Walks the best path back from where it ends.
  void trace(Index rank) const {
    const Index first = batch_.first_rows[rank], position = batch_.positions[rank];
    const Number* scores = static_cast<const Number*>(batch_.scores) + position * tags_;
    Number best = scores[0] + end_[0];
    Index tag = 0;
    for (Index other = 1; other < tags_; ++other) {
      const Number score = scores[other] + end_[other];
      if (!(score <= best) && best == best) best = score, tag = other;
    }
    static_cast<Number*>(batch_.best)[position] = best;
    for (Index row = first + batch_.lengths[rank] - 1; row >= first; --row) {
      batch_.path[row] = tag;
      tag = batch_.backpointers[row * tags_ + tag];
    }
  }

 private:
  // The best scores with which paths arrive at `Vectors` vectors of tags from `to` on, and the tags
  // that they come from. Never inlined: they need every register.
  template <int Vectors>
  __attribute__((noinline)) void arrive(const Number* scores, Index to, Number* arriving,
                                        Whole* origins) const {
    Scores best[Vectors];
    Tags from[Vectors];
    UNROLL for (int v = 0; v < Vectors; ++v) {
      best[v] = scores[0] + load<Scores>(transitions_ + to + v * kCount);
      from[v] = Tags{};
    }
    const Number* row = transitions_ + to;
    for (Index tag = 1; tag < tags_; ++tag) {
      row += stride_;
      const Tags own = Tags{} + Whole(tag);
      UNROLL for (int v = 0; v < Vectors; ++v) {
        const Scores other = scores[tag] + load<Scores>(row + v * kCount);
        const Tags better = ~(other <= best[v]) & (best[v] == best[v]);
        best[v] = better ? other : best[v];
        from[v] = better ? own : from[v];
      }
    }
    UNROLL for (int v = 0; v < Vectors; ++v) {
      store(arriving + to + v * kCount, best[v]);
      store(origins + to + v * kCount, from[v]);
    }
  }

  const Index tags_, stride_;
  const Number *transitions_, *start_, *end_;
  const PathBatch& batch_;
};

}  // namespace bilstm
