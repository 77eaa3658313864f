#include "check.hpp"
#include "core/clock.hpp"

using hookrun::Clock;
using hookrun::QuietSpell;
using hookrun::Trigger;

namespace {

Trigger conditional() {
  Trigger trigger;
  trigger.always = false;
  return trigger;
}

// What `distance` says must be what stepping the clock finds.
std::int64_t distance_by_stepping(const Trigger& trigger, Clock clock, std::int64_t limit) {
  for (std::int64_t steps = 0; steps < limit; ++steps) {
    if (trigger.due(clock)) return steps;
    ++clock.iter;
    ++clock.inner_iter;
  }
  return Trigger::kNever;
}

}  // namespace

TEST(a_trigger_without_conditions_is_always_due) { CHECK(Trigger().due(Clock())); }

TEST(a_conditional_trigger_with_no_condition_set_is_never_due) {
  CHECK(conditional().distance(Clock()) == Trigger::kNever);
}

TEST(every_counts_completed_iterations) {
  Trigger trigger = conditional();
  trigger.every_iters = 3;
  Clock clock;
  CHECK(!trigger.due(clock));  // the first iteration is number 1
  clock.iter = 2;
  CHECK(trigger.due(clock));
  clock.iter = 3;
  CHECK(!trigger.due(clock));
}

TEST(start_moves_the_first_due_iteration) {
  Trigger trigger = conditional();
  trigger.every_iters = 2;
  trigger.start = 3;
  Clock clock;
  int due = 0;
  for (clock.iter = 0; clock.iter < 8; ++clock.iter) {
    if (!trigger.due(clock)) continue;
    ++due;
    CHECK(clock.iter + 1 == 3 || clock.iter + 1 == 5 || clock.iter + 1 == 7);
  }
  CHECK(due == 3);
}

TEST(last_follows_the_limits_and_never_comes_without_one) {
  Trigger trigger = conditional();
  trigger.last_iter = trigger.last_epoch = true;
  Clock clock;
  CHECK(trigger.distance(clock) == Trigger::kNever);
  clock.max_iters = 5;
  CHECK(trigger.distance(clock) == 4);
  clock.max_epochs = 1;
  CHECK(trigger.due(clock));
}

TEST(the_end_of_an_epoch_of_unknown_length_is_asked_for) {
  Trigger trigger = conditional();
  trigger.end_of_epoch = true;
  Clock clock;
  CHECK(trigger.due(clock));
  clock.epoch_length = 4;
  CHECK(trigger.distance(clock) == 3);
}

TEST(the_end_of_a_short_epoch_is_never_asked_for) {
  Trigger trigger = conditional();
  trigger.end_of_short_epoch = 5;
  Clock clock;
  CHECK(trigger.distance(clock) == Trigger::kNever);
  clock.epoch_length = 5;
  CHECK(trigger.distance(clock) == Trigger::kNever);
  clock.epoch_length = 4;
  clock.inner_iter = 1;
  CHECK(trigger.distance(clock) == 2);
}

TEST(schedules_that_span_the_run_count_in_the_present_length) {
  Clock clock;
  CHECK(clock.schedule_total() == Clock::kUnknown);
  clock.iter = 12;
  clock.max_iters = 32;
  clock.schedule_shift = 8;
  CHECK(clock.schedule_step() == 20);
  CHECK(clock.schedule_total() == 40);
  clock.inner_iter = 9;
  clock.epoch_length = 5;  // of a pass through a loader, where the run has no epochs
  CHECK(clock.schedule_step() == 20);
  clock.max_epochs = 4;  // the fifth batch beyond what the loader said: the fifth one's step stays
  CHECK(clock.schedule_step() == 15);
  clock.inner_iter = 4;
  CHECK(clock.schedule_step() == 20);
}

TEST(log_ready_watches_the_flag) {
  Trigger trigger = conditional();
  trigger.log_ready = true;
  bool ready = false;
  Clock clock;
  CHECK(trigger.due(clock));  // unknown buffer: ask
  clock.log_ready = &ready;
  CHECK(!trigger.due(clock));
  ready = true;
  CHECK(trigger.due(clock));
}

TEST(distance_is_what_stepping_finds) {
  for (std::int64_t period = 0; period < 5; ++period) {
    for (std::int64_t start = 0; start < 7; ++start) {
      for (std::int64_t iter = 0; iter < 12; ++iter) {
        Trigger trigger = conditional();
        trigger.every_iters = period;
        trigger.every_inner_iters = (period * 3) % 5;
        trigger.start = start;
        trigger.last_iter = period % 2 == 0;
        trigger.end_of_epoch = start % 2 == 0;
        trigger.end_of_short_epoch = start + 4;
        Clock clock;
        clock.iter = iter;
        clock.inner_iter = iter % 4;
        clock.max_iters = 9;
        clock.epoch_length = 6;
        const std::int64_t found = distance_by_stepping(trigger, clock, 50);
        CHECK(trigger.distance(clock) == found);
      }
    }
  }
}

TEST(a_quiet_spell_holds_until_its_end_and_for_its_counters_only) {
  Clock clock;
  QuietSpell spell;
  CHECK(!spell.holds(clock));
  spell.start(clock, 3, false);
  CHECK(spell.holds(clock));
  clock.iter = clock.inner_iter = 2;
  CHECK(spell.holds(clock));
  clock.iter = clock.inner_iter = 3;
  CHECK(!spell.holds(clock));
  clock.iter = clock.inner_iter = 1;
  clock.epoch = 1;
  CHECK(!spell.holds(clock));
  clock.epoch = 0;
  clock.max_iters = 7;
  CHECK(!spell.holds(clock));
  clock.max_iters = Clock::kUnknown;
  clock.inner_iter = 0;  // a counter was written by hand
  CHECK(!spell.holds(clock));
}

TEST(a_quiet_spell_ends_when_the_log_gets_ready) {
  bool ready = false;
  Clock clock;
  clock.log_ready = &ready;
  QuietSpell spell;
  spell.start(clock, Trigger::kNever, true);
  CHECK(spell.holds(clock));
  ready = true;
  CHECK(!spell.holds(clock));
}
