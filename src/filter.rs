// SPDX-License-Identifier: GPL-2.0

//! The event filter: what a guest wrote, and what of it may reach hardware.
//!
//! User space tells by KVM_SET_PMU_EVENT_FILTER which events a VM may count. The guest does not
//! learn of it: it reads back what it wrote, and a filtered counter stands still. So each selector
//! exists twice, as the guest wrote it and as hardware gets it, and only this file derives the
//! second from the first.

use crate::{model::Model, msr::EventSelector};

/// A VM's event filter.
pub(crate) trait EventFilter {
    /// May a general-purpose counter count the event of `selector`?
    fn allows(&self, selector: EventSelector) -> bool;

    /// May fixed counter `index` count?
    fn allows_fixed(&self, index: u8) -> bool;
}

/// The filter of a VM that has none.
#[cfg(test)]
pub(crate) struct AllowAll;

#[cfg(test)]
impl EventFilter for AllowAll {
    fn allows(&self, _selector: EventSelector) -> bool {
        true
    }

    fn allows_fixed(&self, _index: u8) -> bool {
        true
    }
}

/// The selector that hardware gets when the guest wrote `selector`.
///
/// A counter that is disabled or filtered gets the selector 0, so that whether hardware needs one
/// at all is a comparison with 0. The bits that hardware does not get are those which KVM accepts
/// for compatibility and which mean nothing (pin control), and those which are not for the guest to
/// decide on, as are the ones that hardware gets in any case.
pub(crate) fn hardware_selector(
    model: &Model,
    selector: EventSelector,
    filter: &impl EventFilter,
) -> EventSelector {
    if !selector.has(EventSelector::EN) || !filter.allows(selector) {
        return EventSelector::OFF;
    }
    selector.masked(model.selector_hardware) | model.selector_forced
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Deny {
        event: u16,
        fixed: u8,
    }

    impl EventFilter for Deny {
        fn allows(&self, selector: EventSelector) -> bool {
            selector.event() != self.event
        }

        fn allows_fixed(&self, index: u8) -> bool {
            index != self.fixed
        }
    }

    const FILTER: Deny = Deny {
        event: 0x00c0,
        fixed: 1,
    };

    fn model() -> Model {
        Model {
            selector_hardware: u64::from(u32::MAX) & !EventSelector::PIN_CONTROL,
            ..Model::default()
        }
    }

    #[test]
    fn a_filtered_event_never_reaches_hardware() {
        let wanted = EventSelector::new(0xc0) | EventSelector::EN | EventSelector::OS;
        assert_eq!(
            hardware_selector(&model(), wanted, &FILTER),
            EventSelector::OFF
        );
        assert_eq!(hardware_selector(&model(), wanted, &AllowAll), wanted);
    }

    #[test]
    fn a_disabled_counter_needs_no_selector() {
        let off = EventSelector::new(0xc4) | EventSelector::OS;
        assert_eq!(
            hardware_selector(&model(), off, &AllowAll),
            EventSelector::OFF
        );
    }

    #[test]
    fn pin_control_stays_with_the_guest() {
        let wanted = EventSelector::new(0xc4) | EventSelector::EN | EventSelector::OS;
        let written = wanted | EventSelector::PIN_CONTROL;
        assert_eq!(hardware_selector(&model(), written, &AllowAll), wanted);
    }
}
