package boot

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// diskText is the fixed menu of an installed disk. The functions Choose and
// CountDown say the same in Go; a test runs this text over every state and
// compares. GRUB's own "fallback" is not used: it starts a kernel whose initrd
// could not be read. Nor is a second kernel loaded over a first: GRUB 2.12 then
// starts neither well (measured under SeaBIOS), so that an initrd that exists
// and cannot be read ends in a new start, counted where there is a count.
const diskText = `# Joist: menu of an installed disk. This text is fixed; what changes lies
# beside it: A.cfg and B.cfg (written with a slot), grubenv (state of both).
<<.Serial>>set timeout_style=menu
set timeout=3
load_env --file $prefix/grubenv order A_ok A_try B_ok B_try
<<- range .Slots>>
if [ -s $prefix/<<.Slot>>.cfg ]; then
  source $prefix/<<.Slot>>.cfg
fi
<<- end>>
<<range .Slots>><<$s := .Slot>>
# Takes slot <<$s>> when none is taken yet and it is good or has tries left.
function joist_consider_<<$s>> {
  if [ -z "$joist_slot" ]; then
    if [ "$<<$s>>_ok" = 1<<range .Tries>> -o "$<<$s>>_try" = <<.From>><<end>> ]; then
      set joist_slot=<<$s>>
    fi
  fi
}

# Loads slot <<$s>>. A slot that was never seen healthy pays with a try, and
# the price is on disk before the kernel runs. Where it cannot be written, a
# good other slot is the better choice: this one might fail for ever.
function joist_boot_<<$s>> {
  set joist_trial=
  if [ "$<<$s>>_ok" != 1 ]; then
<<- range $i, $t := .Tries>>
    <<if $i>>elif<<else>>if<<end>> [ "$<<$s>>_try" = <<.From>> ]; then
      set <<$s>>_try=<<.To>>
      set joist_trial="joist.trial=1 oops=panic panic=10"
<<- end>>
    fi
  fi
  if [ -n "$joist_trial" ]; then
    if save_env --file $prefix/grubenv <<$s>>_try; then
      echo "Slot <<$s>> is on trial, tries left after this one: $<<$s>>_try"
    elif [ "$<<.Other>>_ok" = 1 ]; then
      echo "The try of slot <<$s>> cannot be counted."
      return 1
    fi
  fi
  if [ ! -s $prefix/<<$s>>/initrd ]; then
    return 1
  fi
  if linux $prefix/<<$s>>/vmlinuz joist.mode=node $<<$s>>_args $joist_trial; then
    if initrd $prefix/<<$s>>/initrd; then
      return 0
    fi
    sleep 5
    reboot
  fi
  return 1
}

function joist_rescue_<<$s>> {
  linux $prefix/<<$s>>/vmlinuz joist.mode=rescue joist.rescue=mount $<<$s>>_args
  initrd $prefix/<<$s>>/initrd
}
<<end>>
set joist_slot=
if [ "$order" = "B A" ]; then
  set joist_first=B
  joist_consider_B
  joist_consider_A
else
  set joist_first=A
  joist_consider_A
  joist_consider_B
fi
if [ -z "$joist_slot" ]; then
  set joist_slot=$joist_first
fi

set default=$joist_slot
<<range .Slots>>
if [ -n "$<<.Slot>>_args" ]; then
  menuentry "$<<.Slot>>_title" --id <<.Slot>> {
    if joist_boot_<<.Slot>>; then
      true
    else
      echo "Slot <<.Slot>> does not load, slot <<.Other>> is tried."
      joist_boot_<<.Other>>
    fi
  }
fi
<<- end>>
<<- range .Slots>>
if [ -n "$<<.Slot>>_args" ]; then
  menuentry "Rescue: $<<.Slot>>_title" --id rescue-<<.Slot>> {
    joist_rescue_<<.Slot>>
  }
fi
<<- end>>
`

type menuTry struct{ From, To int }

type menuSlot struct {
	Slot, Other Slot
	Tries       []menuTry
}

// DiskMenu is /joist/grub.cfg of an installed disk. Its prefix is the folder
// it lies in: the core image's under a BIOS, DiskStub's under UEFI. It speaks on
// the serial line among the consoles of the kernel, nil being DefaultConsole.
func DiskMenu(console []string) ([]byte, error) {
	if console == nil {
		console = DefaultConsole()
	}
	serial, err := SerialText(console)
	if err != nil {
		serial = "" // what the installing kernel was told and GRUB cannot do is no reason to fail
	}
	var tries []menuTry
	for n := MaxTries; n > 0; n-- {
		tries = append(tries, menuTry{n, n - 1})
	}
	return render(diskText, struct {
		Serial string
		Slots  []menuSlot
	}{serial, []menuSlot{{A, B, tries}, {B, A, tries}}})
}

// SlotBoot is what the kernel of an installed slot is started with.
type SlotBoot struct {
	Manifest Manifest
	Slot     Slot
	DiskGUID string   // of the system disk's partition table
	State    string   // "lvm:<VG UUID>" or "zfs:<pool GUID>": where /var is
	Console  []string // nil: DefaultConsole
	Extra    []string // node state: further kernel arguments
}

var (
	reDiskGUID = regexp.MustCompile(`^[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}$`)
	reState    = regexp.MustCompile(`^(lvm:[A-Za-z0-9]{6}(-[A-Za-z0-9]{4}){5}-[A-Za-z0-9]{6}|zfs:[0-9]{1,20})$`)
)

// Args are the kernel's arguments without joist.mode, which the menu entry
// adds.
func (b SlotBoot) Args() ([]string, error) {
	if err := b.Manifest.Validate(); err != nil {
		return nil, err
	}
	if _, err := ParseSlot(string(b.Slot)); err != nil {
		return nil, err
	}
	if !reDiskGUID.MatchString(b.DiskGUID) {
		return nil, fmt.Errorf("%q is not a disk GUID in upper case", b.DiskGUID)
	}
	if !reState.MatchString(b.State) {
		return nil, fmt.Errorf("%q does not name the state volume: lvm:<volume group UUID> or zfs:<pool GUID>", b.State)
	}
	if b.Console == nil {
		b.Console = DefaultConsole()
	}
	args := slices.Concat([]string{
		"joist.build=" + b.Manifest.BuildID,
		"joist.slot=" + string(b.Slot),
		"joist.verity=" + b.Manifest.VerityRoot,
		"joist.disk=" + b.DiskGUID,
		"joist.state=" + b.State,
		"panic=30", // Debian's kernel hangs in a panic unless told otherwise
	}, extensionArgs(b.Manifest.Extensions), b.Extra, b.Console)
	return args, checkArgs(args)
}

// SlotConfig is A.cfg or B.cfg.
func SlotConfig(b SlotBoot) ([]byte, error) {
	args, err := b.Args()
	if err != nil {
		return nil, fmt.Errorf("write slot configuration: %w", err)
	}
	var t strings.Builder
	fmt.Fprintf(&t, "# Joist, slot %s: written with the slot's files.\n", b.Slot)
	fmt.Fprintf(&t, "set %s_title='%s'\n", b.Slot, b.title())
	fmt.Fprintf(&t, "set %s_args='%s'\n", b.Slot, strings.Join(args, " "))
	return []byte(t.String()), nil
}

// confSize is the room of a configuration that is written in place, sectorSize
// the part of it that every disk writes whole or not at all.
const (
	confSize   = 4096
	sectorSize = 512
)

// FirstConfig is A.cfg of a disk image: the system in the slot starts as an
// installer and makes the disk a node's. It finds the disk by the mark
// disk.InPlace. b's DiskGUID and State are not known yet; extra are further
// arguments of this start. It has the room of what InPlaceConfig puts there.
func FirstConfig(b SlotBoot, extra []string) ([]byte, error) {
	b.DiskGUID, b.State = "00000000-0000-0000-0000-000000000000", "lvm:000000-0000-0000-0000-0000-0000-000000"
	b.Extra = []string{"spl.spl_hostid=0x00000000"}
	if _, err := InPlaceConfig(b); err != nil { // the longest that it becomes
		return nil, err
	}
	b.Extra = append([]string{"joist.in-place=1"}, extra...)
	args, err := b.Args()
	if err != nil {
		return nil, fmt.Errorf("write slot configuration: %w", err)
	}
	args = slices.DeleteFunc(args, func(a string) bool {
		return a == "joist.disk="+b.DiskGUID || a == "joist.state="+b.State
	})
	return padded(b, args)
}

// InPlaceConfig is the same file when the node is there. What counts lies in
// its first sector, so that a power cut leaves the one or the other.
func InPlaceConfig(b SlotBoot) ([]byte, error) {
	args, err := b.Args()
	if err != nil {
		return nil, fmt.Errorf("write slot configuration: %w", err)
	}
	text, err := padded(b, args)
	if err == nil && strings.IndexByte(string(text), '\n') >= sectorSize {
		err = fmt.Errorf("write slot configuration: the kernel arguments have %d bytes, more than one sector takes; give fewer consoles", len(strings.Join(args, " ")))
	}
	return text, err
}

// padded is a slot's configuration with its arguments first.
func padded(b SlotBoot, args []string) ([]byte, error) {
	text := fmt.Sprintf("set %s_args='%s'\nset %s_title='%s'\n# Joist, slot %s: written in place.\n", b.Slot, strings.Join(args, " "), b.Slot, b.title(), b.Slot)
	if len(text) > confSize-2 {
		return nil, fmt.Errorf("write slot configuration: it has %d bytes, at most %d are possible; give fewer kernel arguments", len(text), confSize-2)
	}
	return []byte(text + strings.Repeat("#", confSize-1-len(text)) + "\n"), nil
}

func (b SlotBoot) title() string {
	return fmt.Sprintf("Joist %s, slot %s (build %s)", b.Manifest.Version, b.Slot, b.Manifest.BuildID)
}

var reOnDisk = regexp.MustCompile(`joist\.disk=[0-9A-Fa-f-]+`)

// OnDisk is a slot's configuration for another disk of the system: it differs
// in the disk's GUID alone.
func OnDisk(conf []byte, diskGUID string) ([]byte, error) {
	if !reDiskGUID.MatchString(diskGUID) {
		return nil, fmt.Errorf("write slot configuration: %q is not a disk GUID in upper case", diskGUID)
	}
	if len(reOnDisk.FindAll(conf, -1)) != 1 {
		return nil, fmt.Errorf("write slot configuration: it does not name its disk once")
	}
	return reOnDisk.ReplaceAll(conf, []byte("joist.disk="+diskGUID)), nil
}

// SlotArgs returns the kernel arguments that a slot's configuration names,
// without joist.mode.
func SlotArgs(conf []byte, s Slot) (string, error) {
	for l := range strings.Lines(string(conf)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(l), "set "+string(s)+"_args="); ok {
			return strings.Trim(v, "'"), nil
		}
	}
	return "", fmt.Errorf("read configuration of slot %s: it names no arguments", s)
}
