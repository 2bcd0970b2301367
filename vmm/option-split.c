/* SPDX-License-Identifier: BSD-2-Clause */
/* "FILE,key=value,flag": the way the values of device options are written. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/device.h"

/* Cut the part that @from begins with, ",," made one comma, out to @to; NULL after the last. */
static const char *cut_part(const char *from, char *to)
{
	for (; *from; from++) {
		if (from[0] == ',' && from[1] != ',')
			break;
		if (from[0] == ',')
			from++;
		*to++ = *from;
	}
	*to = 0;
	return *from ? from + 1 : NULL;
}

int option_split(const char *text, char **first,
		 int (*each)(void *opaque, const char *key, const char *value, struct error *err),
		 void *opaque, struct error *err)
{
	size_t room = strlen(text) + 1;
	char *part = malloc(room), *value;
	int ret = 0;

	*first = malloc(room);
	if (!part || !*first)
		ret = error_set(err, -ENOMEM, "options", "", "", "memory", "none");
	else
		text = cut_part(text, *first);
	while (ret == 0 && text) {
		text = cut_part(text, part);
		value = strchr(part, '=');
		if (value)
			*value++ = 0;
		if (!part[0])
			ret = error_set(err, -EINVAL, "options", "", "",
					"a word after each comma (,, for a comma)", "none");
		else
			ret = each(opaque, part, value, err);
	}
	free(part);
	if (ret < 0) {
		free(*first);
		*first = NULL;
	}
	return ret;
}
