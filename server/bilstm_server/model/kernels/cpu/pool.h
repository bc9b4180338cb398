// The threads that share a layer's work items.

#pragma once

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace bilstm {

// The calling thread always takes part and never waits for one that has not begun: a thread that
// wakes late finds nothing left to do. Waiting threads spin first, since the next layer, and under
// load the next batch, follow in microseconds, and then sleep.
class Pool {
 public:
  // The process's own; a forked child, which has none of its parent's threads, gets a new one.
  // Never destroyed: its threads may outlive main.
  static Pool& instance() {
    static Pool* pool = [] {
      pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
      return new Pool;
    }();
    return *pool;
  }

  // Calls work(item) for every item below `items`, on up to `threads` threads. While another
  // thread's call has the pool, this one works alone.
  template <class Work>
  void run(int threads, int items, const Work& work) {
    std::unique_lock<std::mutex> owned(owner_, std::defer_lock);
    if (threads < 2 || items < 2 || !owned.try_lock()) {
      for (int item = 0; item < items; ++item) work(item);
      return;
    }
    const int helpers = (threads < items ? threads : items) - 1;
    Job job{[](const void* self, int item) { (*static_cast<const Work*>(self))(item); }, &work,
            items};
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      start_threads(helpers);
      job_ = &job;
      seats_ = helpers;
      posted_.store(true, std::memory_order_release);
    }
    wake_.notify_all();
    job.work_off();
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = nullptr;
    posted_.store(false, std::memory_order_relaxed);
    if (busy_.load() > 0) {
      lock.unlock();
      spin([this] { return busy_.load(std::memory_order_acquire) == 0; });
      lock.lock();
      idle_.wait(lock, [this] { return busy_.load() == 0; });
    }
  }

 private:
  struct Job {
    void (*call)(const void* work, int item);
    const void* work;
    int items;
    std::atomic<int> next{0};

    void work_off() {
      for (int item = next++; item < items; item = next++) call(work, item);
    }
  };

  static constexpr int kSpins = 8000;  // 150 us and more, by how long the CPU pauses

  template <class Condition>
  static void spin(const Condition& condition) {
    for (int count = 0; count < kSpins && !condition(); ++count) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }

  void start_threads(int wanted) {
    try {
      for (; threads_ < wanted; ++threads_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
      // The process may start no more: those that there are do the work.
    }
  }

  void serve() {
    while (true) {
      spin([this] { return posted_.load(std::memory_order_acquire); });
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return seats_ > 0 && job_ != nullptr; });
      Job* job = job_;
      if (--seats_ == 0) posted_.store(false, std::memory_order_relaxed);  // others spin again
      busy_.fetch_add(1);
      lock.unlock();
      job->work_off();
      lock.lock();
      if (busy_.fetch_sub(1) == 1) idle_.notify_all();
    }
  }

  std::mutex owner_;  // who may post a job
  std::mutex mutex_;  // everything below
  std::condition_variable wake_, idle_;
  Job* job_ = nullptr;
  int seats_ = 0;  // threads that may still join the job
  int threads_ = 0;
  std::atomic<bool> posted_{false};
  std::atomic<int> busy_{0};
};

}  // namespace bilstm
