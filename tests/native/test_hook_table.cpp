#include <vector>

#include "check.hpp"
#include "core/hook_table.hpp"

using hookrun::Counters;
using hookrun::EventId;
using hookrun::Trigger;
using Table = hookrun::HookTable<int>;

namespace {

constexpr EventId kEvent = hookrun::kAfterTrainIter;

// A hook that listens to one event; its target is its name.
Table::Entry entry(int name, int priority, EventId event = kEvent, Trigger trigger = {}) {
  Table::Entry made{name, priority, {}};
  made.listeners.resize(hookrun::kEventCount);
  made.listeners[event] = Table::Listener{name, trigger};
  return made;
}

std::vector<int> fired(Table& table, EventId event = kEvent, Counters counters = {}) {
  std::vector<int> names;
  table.fire(event, counters, [&](const Table::Call& call) {
    names.push_back(call.listener.target);
    return true;
  });
  return names;
}

using Names = std::vector<int>;

}  // namespace

TEST(lower_priorities_fire_first_and_equals_in_order_of_registration) {
  Table table;
  CHECK(table.insert(entry(1, 50)) == 0);
  CHECK(table.insert(entry(2, 10)) == 0);
  CHECK(table.insert(entry(3, 50)) == 2);
  CHECK(table.insert(entry(4, 90)) == 3);
  CHECK(table.insert(entry(5, 10)) == 1);
  CHECK((fired(table) == Names{2, 5, 1, 3, 4}));
}

TEST(an_event_reaches_its_listeners_only) {
  Table table;
  table.insert(entry(1, 50, hookrun::kBeforeRun));
  CHECK(fired(table).empty());
  CHECK((fired(table, hookrun::kBeforeRun) == Names{1}));
  CHECK(fired(table, 1000).empty());
}

TEST(a_false_stops_the_event) {
  Table table;
  for (int name = 1; name <= 3; ++name) table.insert(entry(name, 50));
  int calls = 0;
  const bool done = table.fire(kEvent, Counters(), [&](const Table::Call&) { return ++calls < 2; });
  CHECK(!done);
  CHECK(calls == 2);
}

TEST(once_fires_once_even_if_the_table_is_replaced) {
  Trigger once;
  once.always = false;
  once.once = true;
  Table table;
  table.insert(entry(1, 50, kEvent, once));
  CHECK((fired(table) == Names{1}));
  CHECK(fired(table).empty());
  std::vector<Table::Entry> entries;
  entries.push_back(entry(1, 50, kEvent, once));
  entries.push_back(entry(2, 50, kEvent, once));
  table.replace(std::move(entries));
  CHECK((fired(table) == Names{2}));
}

TEST(a_hook_registered_while_an_event_fires_waits_for_the_next) {
  Table table;
  table.insert(entry(1, 50));
  Names names;
  table.fire(kEvent, Counters(), [&](const Table::Call& call) {
    names.push_back(call.listener.target);
    table.insert(entry(10 + static_cast<int>(names.size()), 60));
    return true;
  });
  CHECK((names == Names{1}));
  CHECK((fired(table) == Names{1, 11}));
}

TEST(a_hook_removed_while_an_event_fires_is_still_called) {
  Table table;
  table.insert(entry(1, 50));
  table.insert(entry(2, 50));
  Names names;
  table.fire(kEvent, Counters(), [&](const Table::Call& call) {
    names.push_back(call.listener.target);
    table.replace({});
    return true;
  });
  CHECK((names == Names{1, 2}));
  CHECK(fired(table).empty());
}

TEST(a_hook_registered_during_before_run_still_gets_it) {
  Table table;
  table.insert(entry(1, 50, hookrun::kBeforeRun));
  table.insert(entry(2, 50, hookrun::kBeforeRun));
  Names names;
  table.fire(hookrun::kBeforeRun, Counters(), [&](const Table::Call& call) {
    names.push_back(call.listener.target);
    if (call.listener.target == 1) table.insert(entry(3, 10, hookrun::kBeforeRun));
    if (call.listener.target == 3) table.insert(entry(4, 99, hookrun::kBeforeRun));
    return true;
  });
  CHECK((names == Names{1, 2, 3, 4}));
}

TEST(events_nest) {
  Table table;
  table.insert(entry(1, 50));
  table.insert(entry(2, 50, hookrun::kBeforeRun));
  Names names;
  table.fire(kEvent, Counters(), [&](const Table::Call&) {
    names = fired(table, hookrun::kBeforeRun);
    table.replace({});
    return true;
  });
  CHECK((names == Names{2}));
}

TEST(idle_windows_end_when_a_trigger_is_due) {
  Trigger every_third;
  every_third.always = false;
  every_third.every_iters = 3;
  Table table;
  table.insert(entry(1, 50, kEvent, every_third));
  Counters counters;
  Names at;
  for (counters.iter = 0; counters.iter < 9; ++counters.iter) {
    counters.inner_iter = counters.iter;
    if (!fired(table, kEvent, counters).empty()) at.push_back(static_cast<int>(counters.iter));
  }
  CHECK((at == Names{2, 5, 8}));
}
