/*
 * A QEMU plugin that counts the guest's instructions: each under the block of code that it belongs to, and under the
 * owner on whose behalf it was executed. For one CPU. benches/count/guest/marks.rs speaks to it from inside the guest.
 *
 * Who owns an instruction? A task has an owner, which it names itself (`task`). A marked function of the kernel (`mark`)
 * opens a frame with another owner, which ends where the function returns; the frames of a task are a stack. Interrupts
 * belong to whom they interrupt.
 *
 * The guest gives a command by executing MAGIC, a no-op everywhere else, with RDI pointing to a line of text.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qemu.h"

enum { MAX_OWNERS = 16, MAX_FRAMES = 32, MAX_MARKS = 64, MAX_DEVICES = 64, MAX_TASKS = 1024, BUCKETS = 1 << 16 };

/* nopl 0x746e7563(%rax) */
static const uint8_t MAGIC[] = { 0x0f, 0x1f, 0x80, 0x63, 0x75, 0x6e, 0x74 };

/* Half of the address space is the kernel's. */
static bool of_kernel(uint64_t address)
{
	return address >> 63;
}

enum kind {
	NOTHING,
	SWITCH,	 /* __switch_to(previous, next) */
	OWNER,	 /* the named owner, */
	WITHIN,	 /* the same, but only within another */
	DEVICE,	 /* the owner of the pointer in RSI, RDI or what RDI points to: */
	DEVICE_OF_SKB,
	DEVICE_OF_LIST,
	POLL,
	SENDS,	 /* veth_xmit(skb, device): no frame, but the next site while we learn */
};

struct mark {
	uint64_t address;
	enum kind kind;
	int owner, within;
};

struct block {
	uint64_t address;
	uint32_t instructions;
	const struct mark *mark;
	struct block *next;
	uint64_t executed[MAX_OWNERS];
};

struct frame {
	uint64_t returns_to, stack;
	int owner;
};

struct task {
	uint64_t address;
	int owner;
	int depth;
	struct frame frames[MAX_FRAMES];
};

struct device {
	uint64_t address;
	int owner;
};

static struct block *blocks[BUCKETS];
static struct mark marks[MAX_MARKS];
static struct device devices[MAX_DEVICES];
static struct task tasks[MAX_TASKS];
static char owners[MAX_OWNERS][32];
static int n_marks, n_devices, n_owners, lost_frames;
static struct task *current = &tasks[0];
static int owner;
static uint64_t top_returns_to;
/* While we learn which device is whose: the owners on the way of the packet, and how far it has come. */
static int sites[MAX_OWNERS], n_sites, site = -1;
/* Owner of tasks that have not said whose they are, from when they first execute an instruction of a program. */
static int stranger;

static FILE *out;
static struct qemu_plugin_register *rdi, *rsi, *rsp;
static GByteArray *bytes;

static uint64_t value(struct qemu_plugin_register *of)
{
	uint64_t word;

	g_byte_array_set_size(bytes, 0);
	if (qemu_plugin_read_register(of, bytes) != sizeof(word))
		return 0;
	memcpy(&word, bytes->data, sizeof(word));
	return word;
}

static uint64_t word_at(uint64_t address)
{
	uint64_t word;

	if (!qemu_plugin_read_memory_vaddr(address, bytes, sizeof(word)))
		return 0;
	memcpy(&word, bytes->data, sizeof(word));
	return word;
}

static int owner_named(const char *name)
{
	for (int i = 0; i < n_owners; i++)
		if (!strcmp(owners[i], name))
			return i;
	if (n_owners == MAX_OWNERS) {
		fprintf(stderr, "counter: more than %d owners\n", MAX_OWNERS);
		exit(1);
	}
	snprintf(owners[n_owners], sizeof(owners[0]), "%s", name);
	return n_owners++;
}

static void look_at_top(void)
{
	if (current->depth) {
		owner = current->frames[current->depth - 1].owner;
		top_returns_to = current->frames[current->depth - 1].returns_to;
	} else {
		owner = current->owner;
		top_returns_to = 0;
	}
}

static void enter(int whose)
{
	uint64_t stack = value(rsp);

	if (current->depth == MAX_FRAMES) {
		lost_frames++;
		return;
	}
	current->frames[current->depth++] = (struct frame){ word_at(stack), stack, whose };
	look_at_top();
}

static struct task *task_at(uint64_t address)
{
	for (int i = 1; i < MAX_TASKS; i++) {
		if (!tasks[i].address)
			tasks[i].address = address;
		if (tasks[i].address == address)
			return &tasks[i];
	}
	fprintf(stderr, "counter: more than %d tasks\n", MAX_TASKS);
	exit(1);
}

/* Takes the frame's owner from the device, if that is known. */
static void enter_device(uint64_t address)
{
	for (int i = 0; i < n_devices; i++) {
		if (devices[i].address == address) {
			enter(devices[i].owner);
			return;
		}
	}
	if (site < 1 || site >= n_sites || n_devices == MAX_DEVICES)
		return;
	devices[n_devices++] = (struct device){ address, sites[site] };
	enter(sites[site]);
}

static void reach(const struct mark *mark)
{
	switch (mark->kind) {
	case NOTHING:
		break;
	case SWITCH:
		current = task_at(value(rsi));
		look_at_top();
		break;
	case WITHIN:
		if (owner != mark->within)
			break;
		/* fall through */
	case OWNER:
		enter(mark->owner);
		break;
	case DEVICE:
		enter_device(value(rsi));
		break;
	case DEVICE_OF_SKB: /* after next and previous */
		enter_device(word_at(value(rdi) + 16));
		break;
	case DEVICE_OF_LIST:
		enter_device(word_at(word_at(value(rdi)) + 16));
		break;
	case POLL:
		enter_device(value(rdi));
		break;
	case SENDS:
		site += site >= 0;
		break;
	}
}

static void execute(unsigned cpu, void *data)
{
	struct block *block = data;

	/* Several frames end at once where one function jumped to another. */
	while (block->address == top_returns_to && value(rsp) == current->frames[current->depth - 1].stack + 8) {
		current->depth--;
		look_at_top();
	}
	if (block->mark)
		reach(block->mark);
	if (!current->owner && stranger && !of_kernel(block->address)) {
		current->owner = stranger;
		look_at_top();
	}
	block->executed[owner] += block->instructions;
}

static void write_row(const char *name)
{
	uint64_t sums[MAX_OWNERS] = { 0 };

	for (int i = 0; i < BUCKETS; i++)
		for (struct block *block = blocks[i]; block; block = block->next)
			for (int whose = 0; whose < n_owners; whose++)
				sums[whose] += block->executed[whose];
	fprintf(out, "row %s\n", name);
	for (int whose = 0; whose < n_owners; whose++)
		fprintf(out, "owner %s %" PRIu64 "\n", owners[whose], sums[whose]);
	for (int i = 0; i < BUCKETS; i++)
		for (struct block *block = blocks[i]; block; block = block->next)
			for (int whose = 0; whose < n_owners; whose++)
				if (block->executed[whose])
					fprintf(out, "block %" PRIx64 " %d %" PRIu64 "\n", block->address, whose,
						block->executed[whose]);
	fprintf(out, "end %d\n", lost_frames);
	fflush(out);
}

static void start(void)
{
	for (int i = 0; i < BUCKETS; i++)
		for (struct block *block = blocks[i]; block; block = block->next)
			memset(block->executed, 0, sizeof(block->executed));
}

static void mark_blocks(const struct mark *mark)
{
	for (int i = 0; i < BUCKETS; i++)
		for (struct block *block = blocks[i]; block; block = block->next)
			if (block->address == mark->address)
				block->mark = mark;
}

static void add_mark(uint64_t address, const char *kind, const char *whose, const char *within)
{
	static const char *const KINDS[] = { "nothing",	      "switch",	       "owner", "within", "device",
					     "device-of-skb", "device-of-list", "poll",	 "sends" };
	struct mark *mark = &marks[n_marks];

	for (size_t i = 1; i < sizeof(KINDS) / sizeof(KINDS[0]); i++)
		if (!strcmp(kind, KINDS[i]))
			mark->kind = i;
	if (n_marks == MAX_MARKS || mark->kind == NOTHING) {
		fprintf(stderr, "counter: mark %s\n", kind);
		exit(1);
	}
	mark->address = address;
	mark->owner = owner_named(whose);
	mark->within = owner_named(within);
	mark_blocks(mark);
	n_marks++;
}

static void learn(char *names)
{
	n_sites = 0;
	for (char *name = strtok(names, " "); name && n_sites < MAX_OWNERS; name = strtok(NULL, " "))
		sites[n_sites++] = owner_named(name);
	site = n_sites ? 0 : -1;
}

static void command(char *line)
{
	char words[4][128] = { "", "", "", "" };
	uint64_t address;

	sscanf(line, "%127s %127s %127s %127s", words[0], words[1], words[2], words[3]);
	if (sscanf(line, "mark %" SCNx64, &address) == 1) {
		char whose[64] = "none", within[64] = "none";

		sscanf(line, "mark %*s %*s %63s %63s", whose, within);
		add_mark(address, words[2], whose, within);
	} else if (!strcmp(words[0], "task")) {
		current->owner = owner_named(words[1]);
		look_at_top();
	} else if (!strcmp(words[0], "strangers")) {
		stranger = owner_named(words[1]);
	} else if (!strcmp(words[0], "forget")) {
		n_devices = 0;
	} else if (!strcmp(words[0], "learn")) {
		learn(line + strlen("learn"));
	} else if (!strcmp(words[0], "start")) {
		start();
	} else if (!strcmp(words[0], "stop")) {
		write_row(line + strlen("stop "));
	} else {
		fprintf(stderr, "counter: what is \"%s\"?\n", line);
		exit(1);
	}
}

static void obey(unsigned cpu, void *data)
{
	char line[512];

	if (!qemu_plugin_read_memory_vaddr(value(rdi), bytes, sizeof(line)))
		return;
	memcpy(line, bytes->data, sizeof(line));
	line[sizeof(line) - 1] = 0;
	command(line);
}

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	uint64_t address = qemu_plugin_tb_vaddr(tb);
	uint32_t instructions = qemu_plugin_tb_n_insns(tb);
	struct block **bucket = &blocks[(address ^ address >> 16) & (BUCKETS - 1)], *block = *bucket;

	while (block && (block->address != address || block->instructions != instructions))
		block = block->next;
	if (!block) {
		block = calloc(1, sizeof(*block));
		block->address = address;
		block->instructions = instructions;
		block->next = *bucket;
		*bucket = block;
		for (int i = 0; i < n_marks; i++)
			if (marks[i].address == address)
				block->mark = &marks[i];
	}
	qemu_plugin_register_vcpu_tb_exec_cb(tb, execute, QEMU_PLUGIN_CB_R_REGS, block);
	for (uint32_t i = 0; !of_kernel(address) && i < instructions; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint8_t code[sizeof(MAGIC)];

		if (qemu_plugin_insn_data(insn, code, sizeof(code)) == sizeof(code) &&
		    !memcmp(code, MAGIC, sizeof(code)))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, obey, QEMU_PLUGIN_CB_R_REGS, NULL);
	}
}

static void begin(qemu_plugin_id_t id, unsigned cpu)
{
	GArray *registers = qemu_plugin_get_registers();
	const qemu_plugin_reg_descriptor *all = (const void *)registers->data;

	for (unsigned i = 0; i < registers->len; i++) {
		rdi = strcmp(all[i].name, "rdi") ? rdi : all[i].handle;
		rsi = strcmp(all[i].name, "rsi") ? rsi : all[i].handle;
		rsp = strcmp(all[i].name, "rsp") ? rsp : all[i].handle;
	}
}

EXPORT int qemu_plugin_version = 4;

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
	if (argc != 1 || strncmp(argv[0], "out=", 4) || !(out = fopen(argv[0] + 4, "w"))) {
		fprintf(stderr, "counter: wants out=FILE\n");
		return -1;
	}
	bytes = g_byte_array_new();
	owner_named("none");
	qemu_plugin_register_vcpu_init_cb(id, begin);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
	return 0;
}
