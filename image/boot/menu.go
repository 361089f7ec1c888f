package boot

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/template"
)

// GRUB's configuration. Its script language has no arithmetic and Debian's
// signed images load no modules from files, so that the texts keep to what is
// built in: if, functions, test, search, load_env, save_env, linux, initrd.

// SerialText is GRUB's part of a serial console; without one there is none. The
// line is GRUB's own only under a BIOS: UEFI firmware that has one mirrors its
// console there already, and two writers garble each other.
func SerialText(console []string) (string, error) {
	var args string
	for _, c := range console {
		s, ok, err := parseSerial(c)
		if err != nil {
			return "", err
		}
		if ok {
			args = s.args()
		}
	}
	if args == "" {
		return "", nil
	}
	return `if [ "$grub_platform" = pc ]; then
  if serial ` + args + `; then
    terminal_input console serial
    terminal_output console serial
  fi
fi
`, nil
}

// line is a serial line as GRUB's command "serial" takes it.
type line struct{ unit, speed, parity, word string }

// The kernel's form of a serial console, "ttyS0,115200n8" (kernel document
// admin-guide/serial-console.rst). GRUB has four lines (grub-core/term/
// ns8250.c); others are the kernel's alone.
var reSerial = regexp.MustCompile(`^console=ttyS([0-3])(?:,([0-9]+)([noe]?)([78]?)r?)?$`)

// grubSpeeds are those that GRUB has a divisor for.
var grubSpeeds = []string{"2400", "4800", "9600", "19200", "38400", "57600", "115200"}

// parseSerial reads a kernel argument; ok is false for what is no serial line
// of GRUB's.
func parseSerial(arg string) (l line, ok bool, err error) {
	m := reSerial.FindStringSubmatch(arg)
	if m == nil {
		return l, false, nil
	}
	l = line{unit: m[1], speed: m[2], parity: m[3], word: m[4]}
	if l.speed == "" {
		l.speed = "9600" // the kernel's default
	}
	if !slices.Contains(grubSpeeds, l.speed) {
		return l, false, fmt.Errorf("GRUB knows no speed of %s: %s", l.speed, strings.Join(grubSpeeds, ", "))
	}
	return l, true, nil
}

func (l line) args() string {
	s := "--unit=" + l.unit + " --speed=" + l.speed
	if l.word == "7" {
		s += " --word=7"
	}
	return s + map[string]string{"o": " --parity=odd", "e": " --parity=even"}[l.parity]
}

// CheckSerial says why a kernel argument "console=…" gives GRUB no serial line
// where it should.
func CheckSerial(arg string) error {
	_, _, err := parseSerial(arg)
	return err
}

// DefaultConsole is where a kernel speaks unless told otherwise; the last one
// becomes /dev/console.
func DefaultConsole() []string { return []string{"console=tty0", "console=ttyS0,115200"} }

var reArg = regexp.MustCompile(`^[A-Za-z0-9_.,:;=/@%+~!*()\[\]^-]+$`)

// checkArgs refuses what would not reach the kernel as it stands: blanks,
// quotes, and what GRUB expands.
func checkArgs(list []string) error {
	for _, a := range list {
		if !reArg.MatchString(a) || len(a) > 256 {
			return fmt.Errorf("%q is not a kernel argument: letters, digits and _.,:;=/@%%+~!*()[]^- only", a)
		}
	}
	return nil
}

func render(text string, data any) ([]byte, error) {
	t, err := template.New("grub.cfg").Delims("<<", ">>").Parse(text)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, data)
	return b.Bytes(), err
}

// Medium is what the menu of an installation medium depends on.
type Medium struct {
	BuildID string
	Version string
	Verity  string   // root hash of system.sqfs
	Console []string // nil: DefaultConsole
	Extra   []string // further kernel arguments
}

func (m *Medium) check() error {
	if !reBuildID.MatchString(m.BuildID) || !reVersion.MatchString(m.Version) {
		return fmt.Errorf("build id %q or version %q is not valid", m.BuildID, m.Version)
	}
	if m.Console == nil {
		m.Console = DefaultConsole()
	}
	return checkArgs(slices.Concat(m.Console, m.Extra))
}

const mediumText = `# Joist <<.Version>>, build <<.BuildID>>: menu of the installation medium.
# The medium is known by its build, whatever label or drive it has.
set joist_system=/joist/<<.BuildID>>/system.sqfs
if [ ! -f $joist_system ]; then
  search --no-floppy --set=root --file $joist_system
fi
<<.Serial>>set default=install
set timeout_style=menu
set timeout=10
if [ -s /joist/answer.toml ]; then
  set default=unattended
fi
if [ -s /joist/answer-source.toml ]; then
  set default=unattended
fi

menuentry "Install Joist <<.Version>>" --id install {
  linux /boot/vmlinuz joist.mode=install joist.build=<<.BuildID>><<.Tail>>
  initrd /boot/initrd
}
menuentry "Install Joist <<.Version>> unattended" --id unattended {
  linux /boot/vmlinuz joist.mode=install joist.answer=auto joist.build=<<.BuildID>><<.Tail>>
  initrd /boot/initrd
}
menuentry "Rescue" --id rescue {
  linux /boot/vmlinuz joist.mode=rescue joist.rescue=mount joist.build=<<.BuildID>><<.Tail>>
  initrd /boot/initrd
}
`

// MediumMenu is /boot/grub/grub.cfg of the medium. Whether an answer is inside,
// or the name of a server that gives one, is looked up when it boots: it may have been added to a finished image.
func MediumMenu(m Medium) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("write medium menu: %w", err)
	}
	serial, err := SerialText(m.Console)
	if err != nil {
		return nil, fmt.Errorf("write medium menu: %w", err)
	}
	if !reHash.MatchString(m.Verity) {
		return nil, fmt.Errorf("write medium menu: %q is no root hash", m.Verity)
	}
	// A panic before PID 1 must not leave a rack server hanging.
	args := slices.Concat([]string{"joist.verity=" + m.Verity, "panic=30"}, m.Extra, m.Console)
	return render(mediumText, struct {
		Medium
		Serial, Tail string
	}{m, serial, " " + strings.Join(args, " ")})
}

const mediumStubText = `# Joist, build <<.BuildID>>: from the EFI image to the medium it came on.
search --no-floppy --set=root --file /joist/<<.BuildID>>/system.sqfs
set prefix=($root)/boot/grub
source $prefix/grub.cfg
`

// MediumStub is what the signed GRUB finds in the medium's EFI image.
func MediumStub(buildID string) ([]byte, error) {
	if !reBuildID.MatchString(buildID) {
		return nil, fmt.Errorf("write medium stub: build id %q is not valid", buildID)
	}
	return render(mediumStubText, Medium{BuildID: buildID})
}

// DiskStub is /EFI/debian/grub.cfg, where Debian's signed grubx64.efi looks on
// the device that it was started from. It never leaves that device.
func DiskStub() []byte {
	return []byte(`# Joist: Debian's signed GRUB looks here; the menu is in /joist of this volume.
set prefix=($root)/joist
source $prefix/grub.cfg
`)
}
