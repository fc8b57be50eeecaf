// SPDX-License-Identifier: GPL-2.0
#include "conf.h"
void test_vmx(void) {}
