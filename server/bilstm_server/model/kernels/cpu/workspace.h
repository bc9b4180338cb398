// The memory that a thread computes in.

#pragma once

#include <algorithm>
#include <cstdlib>
#include <new>

#include "vectors.h"

namespace bilstm {

// A thread keeps its buffers; their size is bounded by the model's and by kGroup.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  T* reserve(Index count) {
    if (count > capacity_) {
      std::free(data_);
      capacity_ = 0;
      data_ = static_cast<T*>(std::aligned_alloc(64, round_up(count * Index(sizeof(T)), 64)));
      if (data_ == nullptr) throw std::bad_alloc();
      capacity_ = count;
    }
    return data_;
  }

 private:
  T* data_ = nullptr;
  Index capacity_ = 0;
};

template <class Operand>
struct Workspace {
  Buffer<Operand> inputs, states, outputs;
  Buffer<float> cells, hidden, sums, block;
};

template <class Operand>
void zero_padding(Operand* to, Index rows, Index used, Index stride) {
  if (used == stride) return;
  for (Index row = 0; row < rows; ++row)
    std::fill(to + row * stride + used, to + (row + 1) * stride, Operand(0));
}

}  // namespace bilstm
