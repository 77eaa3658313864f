// The lifecycle events, in the order in which a training run fires them.
//
// Ids below kEventCount are fixed; a custom event name gets the next free id when it first fires.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace hookrun {

using EventId = std::size_t;

enum Event : EventId {
  kBeforeRun,
  kBeforeEpoch,
  kBeforeTrainEpoch,
  kBeforeIter,
  kBeforeTrainIter,
  kAfterTrainIter,
  kAfterIter,
  kAfterTrainEpoch,
  kBeforeValEpoch,
  kBeforeValIter,
  kAfterValIter,
  kAfterValEpoch,
  kAfterEpoch,
  kAfterRun,
  kEventCount,
};

inline constexpr std::array<std::string_view, kEventCount> kEventNames = {
    "before_run",        "before_epoch",     "before_train_epoch", "before_iter",
    "before_train_iter", "after_train_iter", "after_iter",         "after_train_epoch",
    "before_val_epoch",  "before_val_iter",  "after_val_iter",     "after_val_epoch",
    "after_epoch",       "after_run",
};

}  // namespace hookrun
