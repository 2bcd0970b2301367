/* SPDX-License-Identifier: BSD-2-Clause */
/* CPU models as files, good and hostile, and what --cpu makes of them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpuid-fixture.h"
#include "vmm/arch.h"
#include "vmm/tree.h"
#include "vmm/x86/model.h"

struct file {
	char path[32], text[65536];
	size_t size;
};

static void put(struct file *f)
{
	FILE *out = fopen(f->path, "w");

	assert_non_null(out);
	assert_int_equal(fwrite(f->text, 1, f->size, out), f->size);
	fclose(out);
}

static void get(struct file *f)
{
	FILE *in = fopen(f->path, "r");

	assert_non_null(in);
	f->size = fread(f->text, 1, sizeof(f->text) - 1, in);
	f->text[f->size] = 0;
	fclose(in);
}

static void write_model(struct file *f, const struct cpuid_table *t)
{
	FILE *out = fopen(f->path, "w");

	assert_int_equal(model_write(out, t, NULL), 0);
	fclose(out);
	get(f);
}

static int setup(void **state)
{
	struct file *f = calloc(1, sizeof(*f));
	struct cpuid_table t;

	strcpy(f->path, "/tmp/ferry-model-XXXXXX");
	close(mkstemp(f->path));
	make_host(&t);
	cpuid_set_topology(&t, 0, 1);
	write_model(f, &t);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct file *f = *state;

	unlink(f->path);
	free(f);
	return 0;
}

static void files_are_stable(void **state)
{
	struct file *f = *state, *again = calloc(1, sizeof(*again));
	struct cpuid_table t, back;

	make_host(&t);
	cpuid_set_topology(&t, 0, 1);
	assert_int_equal(model_read(f->path, &back, NULL), 0);
	assert_memory_equal(&back, &t, sizeof(t));
	strcpy(again->path, f->path);
	write_model(again, &back);
	assert_string_equal(again->text, f->text);
	/* Asked on another CPU of the host. */
	cpuid_set_topology(&t, 2, 4);
	write_model(again, &t);
	assert_int_equal(model_read(f->path, &t, NULL), 0);
	assert_memory_equal(&back, &t, sizeof(t));
	assert_non_null(strstr(f->text, "\"vendor\": \"GenuineIntel\""));
	assert_non_null(strstr(f->text, "\"x86-64-v3\""));
	assert_non_null(strstr(f->text, " avx2 "));
	free(again);
}

/* Replace @from by @to and read. */
static void refused(struct file *f, const char *from, const char *to, const char *field)
{
	struct file *bad = calloc(1, sizeof(*bad));
	char *at = strstr(f->text, from);
	struct cpuid_table t;
	struct error err = { 0 };

	assert_non_null(at);
	strcpy(bad->path, f->path);
	bad->size = (size_t)snprintf(bad->text, sizeof(bad->text), "%.*s%s%s", (int)(at - f->text),
				     f->text, to, at + strlen(from));
	put(bad);
	assert_true(model_read(f->path, &t, &err) < 0);
	assert_string_equal(err.field, field);
	free(bad);
}

static void hostile_files(void **state)
{
	struct file *f = *state;
	struct cpuid_table t;
	struct error err = { 0 };

	refused(f, "\"ferry-cpu\": 1", "\"ferry-cpu\": 2", "ferry-cpu");
	refused(f, "\"ferry-cpu\": 1", "\"ferry-cpu\": \"1\"", "ferry-cpu");
	refused(f, "\"cpuid\": [", "\"cpu\": [", "cpuid");
	refused(f, "\"cpuid\": [", "\"cpuid\": [],\"x\": [", "cpuid");
	refused(f, "\"cpuid\": [", "\"cpuid\": [ 7,", "cpuid");
	refused(f, "\"cpuid\": [", "\"cpuid\": [ \"\",", "cpuid");
	refused(f, "\"00000001 00000000 0: ", "\"0000001 00000000 0: ", "cpuid");
	refused(f, "\"00000001 00000000 0: ", "\"0x000001 00000000 0: ", "cpuid");
	refused(f, "\"00000001 00000000 0: ", "\"-0000001 00000000 0: ", "cpuid");
	refused(f, "\"00000001 00000000 0: ", "\" 00000001 00000000 0: ", "cpuid");
	refused(f, "\"00000001 00000000 0: ", "\"00000001 00000000 0: 00", "cpuid");
	refused(f, "\"00000001 00000000 0: ", "\"00000000 00000000 0: ", "CPUID.0.0");
	refused(f, "\"00000001 00000000 0: ", "\"00000001 00000000 1: ", "CPUID.1.0");
	refused(f, "\"00000001 00000000 0: ", "\"00000001 00000000 8: ", "CPUID.1.0");
	refused(f, "{", "[", "");
	refused(f, "\"vendor\"", "\"ferry-cpu\"", ""); /* twice */
	assert_int_equal(model_read("/no/such/file", &t, &err), -ENOENT);
	assert_string_equal(err.device, "/no/such/file");
	assert_true(model_read("/", &t, NULL) < 0);
}

static void truncated_anywhere(void **state)
{
	struct file *f = *state;
	struct cpuid_table t;
	size_t size = f->size - 2; /* its last brace and the newline */

	for (f->size = 0; f->size <= size; f->size++) {
		put(f);
		assert_true(model_read(f->path, &t, NULL) < 0);
	}
}

static void too_many_rows(void **state)
{
	struct file *f = *state;
	struct cpuid_table t;
	char *at = f->text;

	at += sprintf(at, "{\"ferry-cpu\": 1, \"cpuid\": [");
	for (unsigned int i = 0; i < 129; i++)
		at += sprintf(at, "%s\"%08x 00000000 0: 00000000 00000000 00000000 00000000\"",
			      i ? "," : "", 0x1000 + i);
	f->size = (size_t)(at - f->text) + (size_t)sprintf(at, "]}");
	put(f);
	assert_true(model_read(f->path, &t, NULL) < 0);
}

/* What --cpu makes of the tree. */
static void in_the_tree(void **state)
{
	struct file *f = *state;
	struct machine_options opt = { .memory = 2UL << 20, .cpus = 2, .cpu = "x86-64-v2" };
	struct cpuid_table t, back;
	struct machine_tree *mt;
	struct error err = { 0 };
	void *fdt;

	assert_int_equal(machine_tree_new(&mt, &opt, NULL), 0);
	assert_int_equal(machine_tree_finish(mt, &fdt, NULL), 0);
	assert_string_equal(fdt_getprop(fdt, fdt_path_offset(fdt, "/cpus"), PROP_CPU_MODEL, NULL),
			    "x86-64-v2");
	assert_int_equal(cpuid_from_tree(fdt, &back, NULL), -ENOENT);
	free(fdt);
	opt.cpu = f->path;
	assert_int_equal(machine_tree_new(&mt, &opt, NULL), 0);
	assert_int_equal(machine_tree_finish(mt, &fdt, NULL), 0);
	assert_int_equal(cpuid_from_tree(fdt, &back, NULL), 0);
	make_host(&t);
	cpuid_set_topology(&t, 0, 1);
	assert_memory_equal(&back, &t, sizeof(t));
	free(fdt);
	opt.cpu = "x86-64-v9";
	assert_int_equal(machine_tree_new(&mt, &opt, NULL), 0);
	assert_int_equal(machine_tree_finish(mt, &fdt, &err), -ENOENT);
	assert_string_equal(err.device, "x86-64-v9");
	assert_null(fdt);
}

static void common_of_files(void **state)
{
	struct file *f = *state, *other = calloc(1, sizeof(*other));
	const char *files[2] = { f->path, other->path };
	struct cpuid_table t;
	FILE *out = tmpfile();

	strcpy(other->path, "/tmp/ferry-model-XXXXXX");
	close(mkstemp(other->path));
	make_host(&t);
	set_feature(&t, "aes", false);
	write_model(other, &t);
	assert_int_equal(arch_cpu_describe(files, 2, out, NULL), 0);
	rewind(out);
	other->size = fread(other->text, 1, sizeof(other->text) - 1, out);
	put(other);
	assert_int_equal(model_read(other->path, &t, NULL), 0);
	assert_true(feature_has(&t, "avx2") && !feature_has(&t, "aes"));
	files[1] = "/no/such/file";
	assert_int_equal(arch_cpu_describe(files, 2, out, NULL), -ENOENT);
	fclose(out);
	unlink(other->path);
	free(other);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(files_are_stable), TEST(hostile_files), TEST(truncated_anywhere),
		TEST(too_many_rows),	TEST(in_the_tree),   TEST(common_of_files),
	};

	return cmocka_run_group_tests_name("model file", tests, NULL, NULL);
}
