// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/vpmu_lend: lend the PMU to nobody.
 *
 * Lets a test program do what a hypervisor does with perf, without a guest: it
 * reserves mediated PMUs, has the PMU of its CPU lent for a known time, and is
 * told what state the hardware was in at each step. It can watch the real
 * hypervisor do it, too.
 *
 * Everything that a file has reserved goes with it. For tests only: whoever
 * may open the device can keep a CPU busy with interrupts off.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/errno.h>
#include <linux/kprobes.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/perf_event.h>
#include <linux/sched/clock.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include <asm/apic.h>
#include <asm/ibt.h>
#include <asm/irq_vectors.h>
#include <asm/kvm_vpmu.h>
#include <asm/msr.h>
#include <asm/nmi.h>
#include <asm/perf_guest.h>

#include "vpmu_lend.h"

/* Nobody keeps interrupts off for longer, but for those who want to be noticed. */
#define LEND_MAX_NSECS		(500 * NSEC_PER_MSEC)
#define LOCKUP_MAX_NSECS	(10 * NSEC_PER_SEC)

#define WIDTH_MASK		GENMASK_ULL(47, 0)

#define PMI_KERNEL		(ARCH_PERFMON_EVENTSEL_ENABLE | ARCH_PERFMON_EVENTSEL_OS | \
				 ARCH_PERFMON_EVENTSEL_INT)
#define INSTRUCTIONS		0xc0

/**
 * struct vendor_pmu - where a vendor's PMU has what
 * @global_ctrl: enables of all counters
 * @global_status: overflows
 * @status_clear: clears bits of that
 * @fixed_ctrl: enables of fixed counters, 0 if there are none
 * @sel0: the first event selector
 * @sel_stride: from there to the next
 * @nr_sels: how many
 * @counter: a counter of instructions, to be had overflow
 * @counter_ctrl: its selector
 * @counter_on: what has it count, and interrupt
 * @counter_bit: its bit in the global registers
 */
struct vendor_pmu {
	u32 global_ctrl;
	u32 global_status;
	u32 status_clear;
	u32 fixed_ctrl;
	u32 sel0;
	u32 sel_stride;
	u32 nr_sels;
	u32 counter;
	u32 counter_ctrl;
	u64 counter_on;
	u64 counter_bit;
};

static const struct vendor_pmu intel = {
	.global_ctrl = MSR_CORE_PERF_GLOBAL_CTRL,
	.global_status = MSR_CORE_PERF_GLOBAL_STATUS,
	.status_clear = MSR_CORE_PERF_GLOBAL_OVF_CTRL,
	.fixed_ctrl = MSR_CORE_PERF_FIXED_CTR_CTRL,
	.sel0 = MSR_ARCH_PERFMON_EVENTSEL0,
	.sel_stride = 1,
	.nr_sels = LEND_NR_SELS,
	.counter = MSR_CORE_PERF_FIXED_CTR0,
	.counter_ctrl = MSR_CORE_PERF_FIXED_CTR_CTRL,
	.counter_on = INTEL_FIXED_0_KERNEL | INTEL_FIXED_0_ENABLE_PMI,
	.counter_bit = BIT_ULL(32),
};

static const struct vendor_pmu amd = {
	.global_ctrl = MSR_AMD64_PERF_CNTR_GLOBAL_CTL,
	.global_status = MSR_AMD64_PERF_CNTR_GLOBAL_STATUS,
	.status_clear = MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_CLR,
	.sel0 = MSR_F15H_PERF_CTL0,
	.sel_stride = 2,
	.nr_sels = AMD64_NUM_COUNTERS_CORE,
	.counter = MSR_F15H_PERF_CTR0,
	.counter_ctrl = MSR_F15H_PERF_CTL0,
	.counter_on = PMI_KERNEL | INSTRUCTIONS,
	.counter_bit = BIT_ULL(0),
};

static const struct vendor_pmu *vendor = &intel;

/* perf exports its functions to hypervisors only; a probe can find them. */
static int (*create_mediated_pmu)(void);
static void (*release_mediated_pmu)(void);
static void (*load_guest_context)(unsigned long data);
static void (*put_guest_context)(void);

/**
 * struct lend_file - an open file
 * @lock: serializes the ioctls
 * @nr_created: perf_create_mediated_pmu() to be undone
 * @event: the kernel's own event, or NULL
 * @page: shared with user space
 */
struct lend_file {
	struct mutex lock; /* see above */
	unsigned int nr_created;
	struct perf_event *event;
	struct lend_page *page;
};

static void *lookup(const char *name)
{
	struct kprobe probe = { .symbol_name = name };
	void *addr;

	if (register_kprobe(&probe))
		return NULL;
	addr = probe.addr;
	unregister_kprobe(&probe);
	/* A probe goes behind the ENDBR that calls must go to. */
	if (IS_ENABLED(CONFIG_X86_KERNEL_IBT) && is_endbr((u32 *)(addr - 4)))
		addr -= 4;
	return addr;
}

static int lookup_perf(void)
{
	create_mediated_pmu = lookup("perf_create_mediated_pmu");
	release_mediated_pmu = lookup("perf_release_mediated_pmu");
	load_guest_context = lookup("perf_load_guest_context");
	put_guest_context = lookup("perf_put_guest_context");
	if (create_mediated_pmu && release_mediated_pmu && load_guest_context && put_guest_context)
		return 0;
	pr_err("this kernel's perf lends no PMU\n");
	return -EOPNOTSUPP;
}

/* The APIC's registers, for which modules have no functions. */
static u64 apic_base(void)
{
	u64 base;

	rdmsrq(MSR_IA32_APICBASE, base);
	return base;
}

static u32 read_apic(u32 reg)
{
	u64 value;

	if (!(apic_base() & X2APIC_ENABLE))
		return readl((void __iomem *)(APIC_BASE + reg));
	rdmsrq(APIC_BASE_MSR + (reg >> 4), value);
	return value;
}

static void write_apic(u32 reg, u32 value)
{
	if (!(apic_base() & X2APIC_ENABLE))
		writel(value, (void __iomem *)(APIC_BASE + reg));
	else
		wrmsrq(APIC_BASE_MSR + (reg >> 4), value);
}

static void send_to_self(u32 icr)
{
	write_apic(APIC_ICR, APIC_DEST_SELF | icr);
}

/* To the CPU whose APIC_ID reads @id. Interrupts are off. */
static void send_nmi(u32 id)
{
	if (apic_base() & X2APIC_ENABLE) {
		wrmsrq(APIC_BASE_MSR + (APIC_ICR >> 4), (u64)id << 32 | APIC_DM_NMI);
		return;
	}
	writel(id, (void __iomem *)(APIC_BASE + APIC_ICR2));
	writel(APIC_DM_NMI, (void __iomem *)(APIC_BASE + APIC_ICR));
}

/* The shorthand "self" knows no NMI. */
static void send_nmi_to_self(void)
{
	send_nmi(read_apic(APIC_ID));
}

static u64 read_msr_safe(u32 msr)
{
	u64 value = 0;

	rdmsrq_safe(msr, &value);
	return value;
}

static void read_regs(struct lend_regs *regs)
{
	int i;

	memset(regs, 0, sizeof(*regs));
	regs->global_ctrl = read_msr_safe(vendor->global_ctrl);
	regs->global_status = read_msr_safe(vendor->global_status);
	if (vendor->fixed_ctrl)
		regs->fixed_ctrl = read_msr_safe(vendor->fixed_ctrl);
	for (i = 0; i < vendor->nr_sels; i++)
		regs->sels[i] = read_msr_safe(vendor->sel0 + i * vendor->sel_stride);
	regs->lvtpc = read_apic(APIC_LVTPC) & ~APIC_SEND_PENDING;
}

/* An NMI of our own. */
static DEFINE_PER_CPU(bool, nmi_sent);
static DEFINE_PER_CPU(u32, nr_nmis);

static int nmi_handler(unsigned int type, struct pt_regs *regs)
{
	if (!this_cpu_read(nmi_sent))
		return NMI_DONE;

	this_cpu_write(nmi_sent, false);
	this_cpu_inc(nr_nmis);
	return NMI_HANDLED;
}

/* ... and one that isn't: if nobody else claims it, it's told here instead of on the console. */
static DEFINE_PER_CPU(bool, late_nmi_sent);
static DEFINE_PER_CPU(u32, nr_unknown_nmis);

static int unknown_nmi_handler(unsigned int type, struct pt_regs *regs)
{
	if (!this_cpu_read(late_nmi_sent))
		return NMI_DONE;

	this_cpu_inc(nr_unknown_nmis);
	return NMI_HANDLED;
}

static void spin(unsigned int rounds)
{
	asm volatile("1: dec %0\n\t"
		     "jnz 1b" : "+r"(rounds) : : "cc");
}

static void guest_nmi(void)
{
	this_cpu_write(nmi_sent, true);
	send_nmi_to_self();
	while (READ_ONCE(*this_cpu_ptr(&nmi_sent)))
		cpu_relax();
}

/*
 * As a guest's counter would overflow. An NMI of somebody else may come while
 * the overflow is in the status register for all to see.
 */
static void guest_overflow(bool nmi)
{
	wrmsrq(vendor->counter, -1000ull & WIDTH_MASK);
	wrmsrq(vendor->counter_ctrl, vendor->counter_on);
	wrmsrq(vendor->global_ctrl, vendor->counter_bit);
	spin(2000);
	if (nmi)
		guest_nmi();
	wrmsrq(vendor->global_ctrl, 0);
}

static void guest_overflow_cleared(void)
{
	wrmsrq(vendor->counter_ctrl, 0);
	wrmsrq(vendor->status_clear, vendor->counter_bit);
}

/* It has come before the wait is over. */
static void guest_late_nmi(void)
{
	this_cpu_write(late_nmi_sent, true);
	send_nmi_to_self();
	udelay(100);
	this_cpu_write(late_nmi_sent, false);
}

static void guest_wake(void)
{
	int i;

	/* Nobody is there to schedule in between. */
	for (i = 0; i < LEND_NR_WAKES; i++) {
		set_current_state(TASK_INTERRUPTIBLE);
		wake_up_process(current);
	}
}

static void guest(struct lend_run *run, struct lend_page *page)
{
	u64 end = local_clock() + run->nsecs;

	WRITE_ONCE(page->inside, page->inside + 1);
	if (run->flags & LEND_OVERFLOW)
		guest_overflow(run->flags & LEND_NMI);
	else if (run->flags & LEND_NMI)
		guest_nmi();
	if (run->flags & LEND_LATE_NMI)
		guest_late_nmi();
	if (run->flags & LEND_WAKE)
		guest_wake();
	while (local_clock() < end && !READ_ONCE(page->leave))
		cpu_relax();
	/* What the overflow left, but for its selector and status. */
	read_regs(&run->leaving);
	if (run->flags & LEND_OVERFLOW)
		guest_overflow_cleared();
	WRITE_ONCE(page->inside, page->inside + 1);
}

static void lend(struct lend_run *run, struct lend_page *page)
{
	unsigned long flags;
	u32 nmis, unknown_nmis;

	local_irq_save(flags);
	nmis = this_cpu_read(nr_nmis);
	unknown_nmis = this_cpu_read(nr_unknown_nmis);
	read_regs(&run->before);

	run->times[0] = local_clock();
	load_guest_context(run->lvtpc);
	run->times[1] = local_clock();

	read_regs(&run->loaded);
	guest(run, page);

	run->times[2] = local_clock();
	put_guest_context();
	run->times[3] = local_clock();

	read_regs(&run->after);
	run->nr_nmis = this_cpu_read(nr_nmis) - nmis;
	run->nr_unknown_nmis = this_cpu_read(nr_unknown_nmis) - unknown_nmis;
	local_irq_restore(flags);
}

static long lend_run(struct lend_file *file, void __user *arg)
{
	struct lend_run *run __free(kfree) = memdup_user(arg, sizeof(*run));

	if (IS_ERR(run))
		return PTR_ERR(no_free_ptr(run));
	if (!file->nr_created || run->nsecs > LEND_MAX_NSECS)
		return -EINVAL;

	lend(run, file->page);
	return copy_to_user(arg, run, sizeof(*run)) ? -EFAULT : 0;
}

static long lend_create(struct lend_file *file)
{
	int r = create_mediated_pmu();

	if (!r)
		file->nr_created++;
	return r;
}

static long lend_release(struct lend_file *file)
{
	if (!file->nr_created)
		return -EINVAL;

	file->nr_created--;
	release_mediated_pmu();
	return 0;
}

static long lend_event_open(struct lend_file *file, void __user *arg)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_HW_INSTRUCTIONS,
	};
	struct perf_event *event;
	struct lend_event args;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	if (file->event)
		return -EINVAL;

	attr.exclude_guest = !!args.exclude_guest;
	event = perf_event_create_kernel_counter(&attr, args.cpu, args.cpu < 0 ? current : NULL,
						 NULL, NULL);
	if (IS_ERR(event))
		return PTR_ERR(event);
	file->event = event;
	return 0;
}

static long lend_event_close(struct lend_file *file)
{
	if (!file->event)
		return -EINVAL;

	perf_event_release_kernel(file->event);
	file->event = NULL;
	return 0;
}

/* What the NMI watchdog looks for. */
static long lend_lockup(void __user *arg)
{
	unsigned long flags;
	u64 nsecs, end;

	if (copy_from_user(&nsecs, arg, sizeof(nsecs)))
		return -EFAULT;
	if (nsecs > LOCKUP_MAX_NSECS)
		return -EINVAL;

	local_irq_save(flags);
	end = local_clock() + nsecs;
	while (local_clock() < end)
		spin(1000);
	local_irq_restore(flags);
	return 0;
}

static void tell_apic_id(void *id)
{
	*(u32 *)id = read_apic(APIC_ID);
}

/* True if it was unknown, to all but us. Two that come at once would be one. */
static bool nmi_is_unknown(int cpu, u32 id)
{
	u32 *nr = per_cpu_ptr(&nr_unknown_nmis, cpu), before = READ_ONCE(*nr);
	unsigned long flags;
	int i;

	local_irq_save(flags);
	send_nmi(id);
	local_irq_restore(flags);
	for (i = 0; i < 100 && READ_ONCE(*nr) == before; i++)
		udelay(10);
	return READ_ONCE(*nr) != before;
}

static long lend_nmis(void __user *arg)
{
	struct lend_nmis nmis;
	u32 i, id;
	int r;

	if (copy_from_user(&nmis, arg, sizeof(nmis)))
		return -EFAULT;
	if (nmis.cpu < 0 || nmis.cpu >= nr_cpu_ids || nmis.nr > LEND_MAX_NMIS)
		return -EINVAL;

	r = smp_call_function_single(nmis.cpu, tell_apic_id, &id, true);
	if (r)
		return r;

	nmis.nr_unknown = 0;
	per_cpu(late_nmi_sent, nmis.cpu) = true;
	for (i = 0; i < nmis.nr && !signal_pending(current); i++) {
		nmis.nr_unknown += nmi_is_unknown(nmis.cpu, id);
		cond_resched();
	}
	per_cpu(late_nmi_sent, nmis.cpu) = false;
	return copy_to_user(arg, &nmis, sizeof(nmis)) ? -EFAULT : 0;
}

/*
 * The watch. It has all of the machine, so that there is one, of one file; its
 * figures are summed up per CPU by the probes, with interrupts disabled.
 */
struct watch_cpu {
	struct lend_watch figures;
	u64 times[2];
	unsigned long data;
	bool loaded;
};

static DEFINE_PER_CPU(struct watch_cpu, watch_cpus);
static DEFINE_MUTEX(watch_lock);
static struct lend_watch watch;
static struct lend_file *watcher;

static bool watched(void)
{
	return !watch.tgid || current->tgid == watch.tgid;
}

static bool selects_any(const struct lend_regs *regs)
{
	int i;

	for (i = 0; i < LEND_NR_SELS; i++) {
		if (regs->sels[i] & ARCH_PERFMON_EVENTSEL_ENABLE)
			return true;
	}
	return regs->fixed_ctrl;
}

static bool selects_guest(const struct lend_regs *regs)
{
	int i;

	for (i = 0; i < LEND_NR_SELS; i++) {
		if (watch.guest_event && regs->sels[i] & ARCH_PERFMON_EVENTSEL_ENABLE &&
		    (regs->sels[i] & 0xffff) == watch.guest_event)
			return true;
	}
	return regs->fixed_ctrl & watch.guest_fixed;
}

/*
 * After the load and before the put: all is off, and overflows are the guest's,
 * if it can have any that interrupt. @data is what perf was told of that.
 */
static bool is_lent(const struct lend_regs *regs, unsigned long data)
{
	const u32 lvtpc = data & PERF_GUEST_NO_PMI ? APIC_DM_NMI : PERF_GUEST_MEDIATED_PMI_VECTOR;

	return !regs->global_ctrl && !selects_any(regs) &&
	       (regs->lvtpc & ~APIC_LVT_MASKED) == lvtpc;
}

static bool is_returned(const struct lend_regs *regs)
{
	return !selects_guest(regs) && regs->lvtpc == APIC_DM_NMI;
}

static u64 nr_bad(const struct lend_watch *figures)
{
	return figures->bad_loads + figures->bad_leaves + figures->bad_puts + figures->bad_entries;
}

static void blame(struct watch_cpu *wc, u64 *bad, const struct lend_regs *regs)
{
	struct lend_watch *figures = &wc->figures;

	if (!nr_bad(figures))
		figures->first_bad = *regs;
	(*bad)++;
}

static int load_entry(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct watch_cpu *wc = this_cpu_ptr(&watch_cpus);

	if (!watched())
		return 1;
	wc->data = regs_get_kernel_argument(regs, 0);
	wc->times[0] = local_clock();
	return 0;
}

static int load_return(struct kretprobe_instance *ri, struct pt_regs *unused)
{
	struct watch_cpu *wc = this_cpu_ptr(&watch_cpus);
	struct lend_regs regs = {};

	wc->times[1] = local_clock();
	wc->loaded = true;
	wc->figures.loads++;
	wc->figures.no_pmis += !!(wc->data & PERF_GUEST_NO_PMI);
	read_regs(&regs);
	if (!is_lent(&regs, wc->data))
		blame(wc, &wc->figures.bad_loads, &regs);
	return 0;
}

static int put_entry(struct kretprobe_instance *ri, struct pt_regs *unused)
{
	struct watch_cpu *wc = this_cpu_ptr(&watch_cpus);
	struct lend_regs regs = {};

	/* One that the load of was not seen is none of ours. */
	if (!watched() || !wc->loaded)
		return 1;
	read_regs(&regs);
	if (!is_lent(&regs, wc->data))
		blame(wc, &wc->figures.bad_leaves, &regs);
	wc->figures.shortest += local_clock() - wc->times[1];
	return 0;
}

static int put_return(struct kretprobe_instance *ri, struct pt_regs *unused)
{
	struct watch_cpu *wc = this_cpu_ptr(&watch_cpus);
	struct lend_regs regs = {};

	wc->figures.longest += local_clock() - wc->times[0];
	wc->loaded = false;
	read_regs(&regs);
	if (!is_returned(&regs))
		blame(wc, &wc->figures.bad_puts, &regs);
	return 0;
}

/* Just before VMRUN: all is in place, and must be for the guest alone. */
static bool is_guest_only(const struct lend_regs *regs)
{
	u64 sel;
	int i;

	for (i = 0; i < LEND_NR_SELS; i++) {
		sel = regs->sels[i] & (AMD64_EVENTSEL_GUESTONLY | AMD64_EVENTSEL_HOSTONLY);
		if (regs->sels[i] & ARCH_PERFMON_EVENTSEL_ENABLE &&
		    sel != AMD64_EVENTSEL_GUESTONLY)
			return false;
	}
	return true;
}

static int vmrun_entry(struct kprobe *probe, struct pt_regs *unused)
{
	struct watch_cpu *wc = this_cpu_ptr(&watch_cpus);
	struct lend_regs regs;

	if (!watched() || !wc->loaded)
		return 0;
	read_regs(&regs);
	if (!selects_any(&regs))
		return 0;
	wc->figures.entries++;
	if (!is_guest_only(&regs))
		blame(wc, &wc->figures.bad_entries, &regs);
	return 0;
}

static struct kretprobe load_probe, put_probe;
static struct kprobe vmrun_probe;

/* A probe that has been used has to be made anew. */
static void init_probes(void)
{
	load_probe = (struct kretprobe) {
		.kp.symbol_name = "perf_load_guest_context",
		.entry_handler = load_entry,
		.handler = load_return,
		.maxactive = 64,
	};
	put_probe = (struct kretprobe) {
		.kp.symbol_name = "perf_put_guest_context",
		.entry_handler = put_entry,
		.handler = put_return,
		.maxactive = 64,
	};
	vmrun_probe = (struct kprobe) {
		.symbol_name = "svm_vcpu_run",
		.pre_handler = vmrun_entry,
	};
}

static int register_probes(void)
{
	int r;

	r = register_kretprobe(&put_probe);
	if (r)
		return r;
	if (vendor == &amd)
		r = register_kprobe(&vmrun_probe);
	if (r)
		goto err_put;
	r = register_kretprobe(&load_probe);
	if (r)
		goto err_vmrun;
	return 0;

err_vmrun:
	if (vendor == &amd)
		unregister_kprobe(&vmrun_probe);
err_put:
	unregister_kretprobe(&put_probe);
	return r;
}

static void unregister_probes(void)
{
	unregister_kretprobe(&load_probe);
	if (vendor == &amd)
		unregister_kprobe(&vmrun_probe);
	unregister_kretprobe(&put_probe);
}

static void watch_clear(void)
{
	int cpu;

	for_each_possible_cpu(cpu)
		memset(per_cpu_ptr(&watch_cpus, cpu), 0, sizeof(struct watch_cpu));
}

static long watch_start(struct lend_file *file, void __user *arg)
{
	int r;

	guard(mutex)(&watch_lock);
	if (watcher)
		return -EBUSY;
	if (copy_from_user(&watch, arg, sizeof(watch)))
		return -EFAULT;

	watch_clear();
	init_probes();
	r = register_probes();
	if (r)
		return r;
	watcher = file;
	return 0;
}

static void watch_add(struct lend_watch *sum, const struct lend_watch *figures)
{
	if (!nr_bad(sum))
		sum->first_bad = figures->first_bad;
	sum->loads += figures->loads;
	sum->no_pmis += figures->no_pmis;
	sum->shortest += figures->shortest;
	sum->longest += figures->longest;
	sum->bad_loads += figures->bad_loads;
	sum->bad_leaves += figures->bad_leaves;
	sum->bad_puts += figures->bad_puts;
	sum->entries += figures->entries;
	sum->bad_entries += figures->bad_entries;
}

static void watch_end(struct lend_file *file, struct lend_watch *sum)
{
	int cpu;

	unregister_probes();
	for_each_possible_cpu(cpu)
		watch_add(sum, &per_cpu_ptr(&watch_cpus, cpu)->figures);
	sum->missed = load_probe.nmissed + put_probe.nmissed;
	watcher = NULL;
}

static long watch_stop(struct lend_file *file, void __user *arg)
{
	struct lend_watch sum = {};

	scoped_guard(mutex, &watch_lock) {
		if (watcher != file)
			return -EINVAL;
		watch_end(file, &sum);
	}
	return copy_to_user(arg, &sum, sizeof(sum)) ? -EFAULT : 0;
}

/*
 * A function that fails: for one process, and one function at a time.
 */
static DEFINE_MUTEX(fail_lock);
static struct lend_fail fail;
static struct lend_file *fail_owner;
static pid_t fail_tgid;
static atomic_t fail_calls, fail_hits;

/* What interrupts the process is none of its calls. The probe itself counts as an NMI. */
static bool probed_in_task(void)
{
	return hardirq_count() <= HARDIRQ_OFFSET && !in_serving_softirq();
}

static int fail_entry(struct kprobe *probe, struct pt_regs *regs)
{
	if (!probed_in_task() || (!fail.anybody && current->tgid != fail_tgid))
		return 0;
	if (fail.nth && atomic_inc_return(&fail_calls) != fail.nth)
		return 0;

	atomic_inc(&fail_hits);
	regs->ax = (long)fail.error;
	regs->ip = *(unsigned long *)regs->sp;
	regs->sp += sizeof(long);
	return 1;
}

/* Having one keeps the probe from being made a jump, which could not do that. */
static void fail_post(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static struct kprobe fail_probe;

static long fail_start(struct lend_file *file, void __user *arg)
{
	int r;

	guard(mutex)(&fail_lock);
	if (fail_owner)
		return -EBUSY;
	if (copy_from_user(&fail, arg, sizeof(fail)))
		return -EFAULT;
	if (strnlen(fail.symbol, LEND_SYMBOL_LEN) == LEND_SYMBOL_LEN)
		return -EINVAL;

	fail_tgid = current->tgid;
	atomic_set(&fail_calls, 0);
	atomic_set(&fail_hits, 0);
	fail_probe = (struct kprobe) {
		.symbol_name = fail.symbol,
		.pre_handler = fail_entry,
		.post_handler = fail_post,
	};
	r = register_kprobe(&fail_probe);
	if (!r)
		fail_owner = file;
	return r;
}

static void fail_end(void)
{
	unregister_kprobe(&fail_probe);
	fail.hits = atomic_read(&fail_hits);
	fail_owner = NULL;
}

static long fail_stop(struct lend_file *file, void __user *arg)
{
	guard(mutex)(&fail_lock);
	if (fail_owner != file)
		return -EINVAL;
	fail_end();
	return copy_to_user(arg, &fail, sizeof(fail)) ? -EFAULT : 0;
}

/*
 * A backend that takes no vCPU: whoever asks for one is refused, so
 * that no other callback is ever called.
 */
static DEFINE_MUTEX(backend_lock);
static struct kvm_vpmu_backend backend;
static struct lend_file *backend_owner;

static int backend_vcpu_create(const struct kvm_vpmu_backend *backend, struct kvm_vcpu *vcpu)
{
	return -LEND_BACKEND_ERROR;
}

static void backend_unused(void)
{
	WARN_ON_ONCE(1);
}

static void backend_init(void)
{
	const size_t first = offsetof(struct kvm_vpmu_backend, vcpu_create);
	void **calls = (void *)&backend + first;
	unsigned int i;

	backend = (struct kvm_vpmu_backend) { .owner = THIS_MODULE, .name = "vpmu_lend" };
	for (i = 0; i < (sizeof(backend) - first) / sizeof(*calls); i++)
		calls[i] = backend_unused;
	backend.vcpu_create = backend_vcpu_create;
}

/* KVM exports these to one module only; it is loaded while it has a backend. */
static long backend_register(struct lend_file *file)
{
	int (*reg)(const struct kvm_vpmu_backend *backend) = lookup("kvm_vpmu_register_backend");
	int r;

	guard(mutex)(&backend_lock);
	if (!reg)
		return -EOPNOTSUPP;
	if (backend_owner)
		return -EALREADY;
	backend_init();
	r = reg(&backend);
	if (!r)
		backend_owner = file;
	return r;
}

static long backend_unregister(struct lend_file *file)
{
	void (*unregister)(const struct kvm_vpmu_backend *backend);

	guard(mutex)(&backend_lock);
	if (backend_owner != file)
		return -EINVAL;
	unregister = lookup("kvm_vpmu_unregister_backend");
	if (WARN_ON_ONCE(!unregister))
		return -EOPNOTSUPP;
	unregister(&backend);
	backend_owner = NULL;
	return 0;
}

/*
 * A security module that has a state of each perf event, for one file. Where
 * there is a real one with such states, these are what is counted.
 */
static DEFINE_MUTEX(lsm_lock);
static struct lend_file *lsm_owner;
static atomic64_t lsm_attached, lsm_freed;

#ifdef CONFIG_SECURITY
/* What is returned to is told by the entry which event it was. */
static int lsm_alloc_entry(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	*(struct perf_event **)ri->data = (struct perf_event *)regs->di;
	return 0;
}

static int lsm_alloc_return(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct perf_event *event = *(struct perf_event **)ri->data;

	if (regs_return_value(regs))
		return 0;
	/* The kernel frees it by kfree(), with or without us. */
	if (!event->security)
		event->security = kzalloc(sizeof(long), GFP_ATOMIC);
	if (event->security)
		atomic64_inc(&lsm_attached);
	return 0;
}

static int lsm_free_entry(struct kprobe *probe, struct pt_regs *regs)
{
	struct perf_event *event = (struct perf_event *)regs->di;

	if (event->security)
		atomic64_inc(&lsm_freed);
	return 0;
}

static struct kretprobe lsm_alloc_probe;
static struct kprobe lsm_free_probe;

static int lsm_register(void)
{
	int r;

	lsm_alloc_probe = (struct kretprobe) {
		.kp.symbol_name = "security_perf_event_alloc",
		.entry_handler = lsm_alloc_entry,
		.handler = lsm_alloc_return,
		.data_size = sizeof(struct perf_event *),
		.maxactive = 64,
	};
	lsm_free_probe = (struct kprobe) {
		.symbol_name = "security_perf_event_free",
		.pre_handler = lsm_free_entry,
	};
	r = register_kprobe(&lsm_free_probe);
	if (r)
		return r;
	r = register_kretprobe(&lsm_alloc_probe);
	if (r)
		unregister_kprobe(&lsm_free_probe);
	return r;
}

static void lsm_end(void)
{
	unregister_kretprobe(&lsm_alloc_probe);
	unregister_kprobe(&lsm_free_probe);
	lsm_owner = NULL;
}
#else
static int lsm_register(void) { return -EOPNOTSUPP; }
static void lsm_end(void) { }
#endif

static long lsm_start(struct lend_file *file)
{
	int r;

	guard(mutex)(&lsm_lock);
	if (lsm_owner)
		return -EBUSY;

	atomic64_set(&lsm_attached, 0);
	atomic64_set(&lsm_freed, 0);
	r = lsm_register();
	if (!r)
		lsm_owner = file;
	return r;
}

static long lsm_read(struct lend_file *file, void __user *arg)
{
	struct lend_lsm lsm = {
		.attached = atomic64_read(&lsm_attached),
		.freed = atomic64_read(&lsm_freed),
	};

	guard(mutex)(&lsm_lock);
	if (lsm_owner != file)
		return -EINVAL;
	return copy_to_user(arg, &lsm, sizeof(lsm)) ? -EFAULT : 0;
}

static long lend_ioctl_locked(struct lend_file *file, unsigned int cmd, void __user *arg)
{
	switch (cmd) {
	case LEND_CREATE:
		return lend_create(file);
	case LEND_RELEASE:
		return lend_release(file);
	case LEND_RUN:
		return lend_run(file, arg);
	case LEND_WATCH_START:
		return watch_start(file, arg);
	case LEND_WATCH_STOP:
		return watch_stop(file, arg);
	case LEND_EVENT_OPEN:
		return lend_event_open(file, arg);
	case LEND_EVENT_CLOSE:
		return lend_event_close(file);
	case LEND_SPURIOUS_PMI:
		send_to_self(APIC_DM_FIXED | PERF_GUEST_MEDIATED_PMI_VECTOR);
		return 0;
	case LEND_ENABLE:
		wrmsrq(vendor->global_ctrl, vendor->counter_bit);
		return 0;
	case LEND_MASK_LVTPC:
		write_apic(APIC_LVTPC, APIC_DM_NMI | APIC_LVT_MASKED);
		return 0;
	case LEND_LOCKUP:
		return lend_lockup(arg);
	case LEND_FAIL_START:
		return fail_start(file, arg);
	case LEND_FAIL_STOP:
		return fail_stop(file, arg);
	case LEND_BACKEND_REGISTER:
		return backend_register(file);
	case LEND_BACKEND_UNREGISTER:
		return backend_unregister(file);
	case LEND_LSM_START:
		return lsm_start(file);
	case LEND_LSM_READ:
		return lsm_read(file, arg);
	case LEND_NMIS:
		return lend_nmis(arg);
	default:
		return -ENOTTY;
	}
}

static long lend_ioctl(struct file *filp, unsigned int cmd, unsigned long arg)
{
	struct lend_file *file = filp->private_data;

	guard(mutex)(&file->lock);
	return lend_ioctl_locked(file, cmd, (void __user *)arg);
}

static int lend_mmap(struct file *filp, struct vm_area_struct *vma)
{
	struct lend_file *file = filp->private_data;

	return remap_vmalloc_range(vma, file->page, vma->vm_pgoff);
}

static int lend_open(struct inode *inode, struct file *filp)
{
	struct lend_file *file __free(kfree) = kzalloc(sizeof(*file), GFP_KERNEL);

	if (!file)
		return -ENOMEM;
	mutex_init(&file->lock);
	file->page = vmalloc_user(PAGE_SIZE);
	if (!file->page)
		return -ENOMEM;
	filp->private_data = no_free_ptr(file);
	return 0;
}

static int lend_close(struct inode *inode, struct file *filp)
{
	struct lend_file *file = filp->private_data;
	struct lend_watch unused = {};

	scoped_guard(mutex, &watch_lock) {
		if (watcher == file)
			watch_end(file, &unused);
	}
	scoped_guard(mutex, &fail_lock) {
		if (fail_owner == file)
			fail_end();
	}
	backend_unregister(file);
	scoped_guard(mutex, &lsm_lock) {
		if (lsm_owner == file)
			lsm_end();
	}
	if (file->event)
		perf_event_release_kernel(file->event);
	while (file->nr_created--)
		release_mediated_pmu();
	vfree(file->page);
	kfree(file);
	return 0;
}

static const struct file_operations lend_fops = {
	.owner		= THIS_MODULE,
	.open		= lend_open,
	.release	= lend_close,
	.unlocked_ioctl	= lend_ioctl,
	.mmap		= lend_mmap,
};

static struct miscdevice lend_device = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "vpmu_lend",
	.fops	= &lend_fops,
};

static int __init vpmu_lend_init(void)
{
	int r = lookup_perf();

	if (r)
		return r;
	if (boot_cpu_data.x86_vendor == X86_VENDOR_AMD)
		vendor = &amd;
	r = register_nmi_handler(NMI_LOCAL, nmi_handler, 0, "vpmu_lend");
	if (r)
		return r;
	r = register_nmi_handler(NMI_UNKNOWN, unknown_nmi_handler, 0, "vpmu_lend");
	if (r)
		goto err_local;
	r = misc_register(&lend_device);
	if (r)
		goto err_unknown;
	return 0;

err_unknown:
	unregister_nmi_handler(NMI_UNKNOWN, "vpmu_lend");
err_local:
	unregister_nmi_handler(NMI_LOCAL, "vpmu_lend");
	return r;
}
module_init(vpmu_lend_init);

static void __exit vpmu_lend_exit(void)
{
	misc_deregister(&lend_device);
	unregister_nmi_handler(NMI_UNKNOWN, "vpmu_lend");
	unregister_nmi_handler(NMI_LOCAL, "vpmu_lend");
}
module_exit(vpmu_lend_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Lend the PMU to nobody, for the selftests of those who lend it to guests");
