package kvm

import (
	"strings"

	wire "joist/api/guest"
)

// x86-64 levels as x86-64-ABI (psABI, "Micro-Architecture Levels") defines
// them, on top of QEMU's most portable 64-bit model. v2-AES is the field's
// own step between v2 and v3.
const (
	flagsV2 = "+cx16,+lahf_lm,+pni,+popcnt,+sse4.1,+sse4.2,+ssse3"
	flagsV3 = flagsV2 + ",+aes,+abm,+avx,+avx2,+bmi1,+bmi2,+f16c,+fma,+movbe,+xsave"
)

var levels = map[string]string{
	"x86-64-v2":     "qemu64," + flagsV2,
	"x86-64-v2-AES": "qemu64," + flagsV2 + ",+aes",
	"x86-64-v3":     "qemu64," + flagsV3,
	"x86-64-v4":     "qemu64," + flagsV3 + ",+avx512bw,+avx512cd,+avx512dq,+avx512f,+avx512vl",
	"kvm64":         "kvm64,+lahf_lm,+sep",
	"kvm32":         "kvm32,+sep",
}

// cpuModel turns the option cpu into QEMU's -cpu. Software emulation gives all
// it can unless a model is named that it has, too.
func cpuModel(option, accel string) (string, error) {
	c, err := wire.ParseCPU(option)
	if err != nil {
		return "", err
	}
	model := c.Model
	if model == "" {
		model = "x86-64-v2-AES"
		if accel == "tcg" {
			model = "max"
		}
	}
	if model == "host" && accel == "tcg" {
		model = "max"
	}
	if m, ok := levels[model]; ok {
		model = m
	}
	if accel == "kvm" && !c.Hidden {
		model += ",+kvm_pv_eoi,+kvm_pv_unhalt"
	}
	if c.Hidden {
		model += ",kvm=off"
	}
	if len(c.Flags) > 0 {
		model += "," + strings.Join(c.Flags, ",")
	}
	return model, nil
}
