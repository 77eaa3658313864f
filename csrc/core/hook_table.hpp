// The table of registered hooks: one priority-sorted call list per event, and the loop that fires
// it.
//
// `Target` is whatever the caller invokes (a Python callable in production, an int in the C++
// tests).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "counters.hpp"
#include "events.hpp"

namespace hookrun {

template <class Target>
class HookTable {
 public:
  // How one hook listens to one event.
  struct Listener {
    Target target;
    Trigger trigger;
    // Set once a `once` trigger has fired. Shared, so that it survives a rebuild of the lists.
    std::shared_ptr<bool> fired = trigger.once ? std::make_shared<bool>(false) : nullptr;

    std::int64_t distance(const Counters& counters) const {
      return fired ? (*fired ? Trigger::kNever : 0) : trigger.distance(counters);
    }
    bool due(const Counters& counters) const { return distance(counters) == 0; }
    bool unconditional() const { return !fired && trigger.always; }
  };

  struct Entry {
    Target hook;
    int priority;
    std::vector<std::optional<Listener>> listeners;  // by event id
  };

  struct Call {
    Listener listener;
    Target hook;
    int priority;
    std::size_t serial;  // counts registrations: shows which hooks came while an event fired
  };

  struct CallList {
    std::vector<Call> calls;
    // For each position, the next position (or the same) whose call has no trigger.
    std::vector<std::size_t> next_unconditional;
    IdleWindow idle;  // of the calls that have a trigger
  };

  // Inserts after the last entry whose priority is not larger: stable among equals. Returns the
  // position.
  std::size_t insert(Entry entry) {
    std::size_t position = entries_.size();
    while (position > 0 && entries_[position - 1].entry.priority > entry.priority) --position;
    entries_.insert(entries_.begin() + static_cast<std::ptrdiff_t>(position),
                    {std::move(entry), next_serial_++});
    outdated_ = true;  // rebuilt by the next event: hooks are often registered many at a time
    return position;
  }

  // Replaces all entries by these, in the order given whatever their priorities.
  void replace(std::vector<Entry> entries) {
    std::vector<Numbered> numbered;
    numbered.reserve(entries.size());
    for (Entry& entry : entries) {
      const Numbered* known = find(entry.hook);
      const std::size_t serial = known ? known->serial : next_serial_++;
      if (known) keep_fired(*known, entry);
      numbered.push_back({std::move(entry), serial});
    }
    entries_.swap(numbered);
    rebuild();
  }

  // Calls `invoke(call)` for each due call of the event, in order, until one returns false. The
  // list being fired does not change: registrations and removals take effect from the next event
  // on, except that a hook registered during before_run still gets its before_run, after all
  // others.
  template <class Invoke>
  bool fire(EventId event, const Counters& counters, Invoke&& invoke) {
    if (outdated_) rebuild();
    if (event >= lists_.size()) return true;
    CallList* list = lists_[event].get();
    if (list->calls.empty()) return true;
    std::size_t next = first_due(*list, 0, counters);
    if (next == list->calls.size()) return true;

    const Firing firing(this);
    std::size_t known_serials = next_serial_;
    for (; next < list->calls.size(); next = first_due(*list, next + 1, counters)) {
      if (!call(list->calls[next], invoke)) return false;
    }
    while (event == kBeforeRun && known_serials < next_serial_) {
      const std::size_t seen = std::exchange(known_serials, next_serial_);
      if (outdated_) rebuild();
      for (const Call& late : lists_[event]->calls) {
        if (late.serial >= seen && late.listener.due(counters) && !call(late, invoke)) return false;
      }
    }
    return true;
  }

  const std::vector<Call>& calls(EventId event) {
    static const std::vector<Call> empty;
    if (outdated_) rebuild();
    return event < lists_.size() ? lists_[event]->calls : empty;
  }

  std::size_t size() const { return entries_.size(); }
  Entry& entry(std::size_t position) { return entries_[position].entry; }

  // Visits every reference to a Target that the table owns, for garbage collectors.
  template <class Visit>
  int visit(Visit&& visit_target) const {
    for (const Numbered& numbered : entries_) {
      if (int code = visit_target(numbered.entry.hook)) return code;
      for (const auto& listener : numbered.entry.listeners) {
        if (!listener) continue;
        if (int code = visit_target(listener->target)) return code;
      }
    }
    for (const Lists* lists : {&lists_, &retired_}) {
      for (const auto& list : *lists) {
        for (const Call& call : list->calls) {
          if (int code = visit_target(call.listener.target)) return code;
          if (int code = visit_target(call.hook)) return code;
        }
      }
    }
    return 0;
  }

  // Call after changing an entry's listeners.
  void rebuild() {
    std::size_t events = kEventCount;
    for (const Numbered& numbered : entries_) {
      events = std::max(events, numbered.entry.listeners.size());
    }
    Lists lists(events);
    for (EventId event = 0; event < events; ++event) {
      lists[event] = std::make_unique<CallList>();
      for (const Numbered& numbered : entries_) {
        const auto& listeners = numbered.entry.listeners;
        if (event < listeners.size() && listeners[event]) {
          lists[event]->calls.push_back(
              {*listeners[event], numbered.entry.hook, numbered.entry.priority, numbered.serial});
        }
      }
      lists[event]->next_unconditional = next_unconditional(lists[event]->calls);
    }
    lists_.swap(lists);
    outdated_ = false;
    if (firing_ > 0) {  // an event may be iterating over one of them: keep all until none fires
      std::move(lists.begin(), lists.end(), std::back_inserter(retired_));
    }
  }

 private:
  using Lists = std::vector<std::unique_ptr<CallList>>;

  // Counts the events being fired; they nest. A plain counter is enough because the GIL protects
  // the table, and costs less than shared ownership of the lists.
  class Firing {
   public:
    explicit Firing(HookTable* table) : table_(table) { ++table_->firing_; }
    ~Firing() {
      if (--table_->firing_ == 0 && !table_->retired_.empty()) {
        Lists released;  // swapped out first: releasing a target may run code that fires again
        released.swap(table_->retired_);
      }
    }
    Firing(const Firing&) = delete;
    Firing& operator=(const Firing&) = delete;

   private:
    HookTable* table_;
  };

  struct Numbered {
    Entry entry;
    std::size_t serial;
  };

  // The first position at or after `from` whose call is due; the list's size if there is none.
  static std::size_t first_due(CallList& list, std::size_t from, const Counters& counters) {
    if (list.idle.holds(counters)) {
      return list.next_unconditional[from];
    }
    while (from < list.calls.size() && !list.calls[from].listener.due(counters)) ++from;
    if (from == list.calls.size()) start_idle_window(list, counters);
    return from;
  }

  static void start_idle_window(CallList& list, const Counters& counters) {
    std::int64_t nearest = Trigger::kNever;
    bool watch_log = false;
    for (const Call& call : list.calls) {
      if (call.listener.unconditional()) continue;
      nearest = std::min(nearest, call.listener.distance(counters));
      watch_log = watch_log || (!call.listener.fired && call.listener.trigger.log_ready);
    }
    list.idle.start(counters, nearest, watch_log);
  }

  template <class Invoke>
  static bool call(const Call& call, Invoke& invoke) {
    if (call.listener.fired) *call.listener.fired = true;
    return invoke(call);
  }

  // One entry more than there are calls: the position after the last call is a valid start.
  static std::vector<std::size_t> next_unconditional(const std::vector<Call>& calls) {
    std::vector<std::size_t> next(calls.size() + 1, calls.size());
    for (std::size_t position = calls.size(); position-- > 0;) {
      next[position] = calls[position].listener.unconditional() ? position : next[position + 1];
    }
    return next;
  }

  const Numbered* find(const Target& hook) const {
    for (const Numbered& numbered : entries_) {
      if (numbered.entry.hook == hook) return &numbered;
    }
    return nullptr;
  }

  static void keep_fired(const Numbered& known, Entry& entry) {
    const auto& before = known.entry.listeners;
    for (EventId event = 0; event < std::min(before.size(), entry.listeners.size()); ++event) {
      auto& listener = entry.listeners[event];
      if (before[event] && before[event]->fired && listener && listener->fired) {
        listener->fired = before[event]->fired;
      }
    }
  }

  std::vector<Numbered> entries_;
  Lists lists_;
  bool outdated_ = false;  // whether entries_ has changed since the lists were built
  Lists retired_;
  int firing_ = 0;
  std::size_t next_serial_ = 0;
};

}  // namespace hookrun
