// Package netboot is about machines that start from the network: the script for
// iPXE and the menu for GRUB that they read first, and the server that hands
// these and the system to them (proxy DHCP, TFTP, HTTP). Script and menu lie
// beside kernel, initrd and system image, find these on the server they came
// from themselves, and tell stage 1 where the system image is (joist.image).
package netboot

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"joist/image/boot"
)

// Names in the folder that firmware and loaders go by.
const (
	BIOSFile   = "grub.pxe"       // for PXE of a BIOS
	UEFIFile   = "shimx64.efi"    // for PXE and HTTP boot of UEFI
	IPXEFile   = "boot.ipxe"      // for iPXE of both
	GrubFile   = "grub/grub.cfg"  // where GRUB looks, from the server's top on
	InitrdFile = "initrd-netboot" // initrd with drivers of network cards
)

// Spec is what the texts depend on.
type Spec struct {
	Manifest boot.Manifest
	Console  []string // nil: boot.DefaultConsole
	Extra    []string // further kernel arguments
}

// argForm leaves out blanks, quotes and what iPXE or GRUB expand.
var argForm = regexp.MustCompile(`^[A-Za-z0-9_.,:=/@%+~!*()\[\]^-]{1,256}$`)

// values are what the templates name.
type values struct {
	Version, BuildID, Args, Serial string
}

func (s Spec) values() (values, error) {
	if err := s.Manifest.Validate(); err != nil {
		return values{}, err
	}
	if s.Console == nil {
		s.Console = boot.DefaultConsole()
	}
	// Hashes of what stage 1 fetches are in the initrd. A panic before PID 1
	// must not leave a rack server hanging.
	args := slices.Concat([]string{"joist.build=" + s.Manifest.BuildID, "panic=30"}, s.Extra, s.Console)
	for _, a := range args {
		if !argForm.MatchString(a) {
			return values{}, fmt.Errorf("%q cannot be put on a kernel command line", a)
		}
	}
	serial, err := boot.SerialText(s.Console)
	if err != nil {
		return values{}, err
	}
	return values{s.Manifest.Version, s.Manifest.BuildID, strings.Join(args, " "), serial}, nil
}

func (s Spec) render(name, text string) ([]byte, error) {
	v, err := s.values()
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", name, err)
	}
	t, err := template.New(name).Delims("<<", ">>").Parse(text)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", name, err)
	}
	var b bytes.Buffer
	err = t.Execute(&b, v)
	return b.Bytes(), err
}

// Whether cwduri (ipxe.org/cfg/cwduri) ends in a slash is not documented; two
// are one to a web server. UEFI firmware's stub wants initrd= by name. netX is
// the card that iPXE used last.
const ipxeText = `#!ipxe
# Joist <<.Version>>, build <<.BuildID>>. The other files lie beside this one.
# Whoever chains to it may set joist-url (their folder, where it is another),
# joist-mode (install or rescue), joist-answer (auto, or where the answer is:
# nobody is asked) and joist-args (more kernel arguments).
isset ${joist-url} || set joist-url ${cwduri}
isset ${joist-url} || goto old
isset ${joist-mode} || set joist-mode install
isset ${joist-answer} && set joist-args ${joist-args} joist.answer=${joist-answer} ||
kernel --name vmlinuz ${joist-url}/vmlinuz initrd=initrd-netboot joist.mode=${joist-mode} joist.image=${joist-url}/system.sqfs BOOTIF=01-${netX/mac:hexhyp} <<.Args>> ${joist-args} || goto failed
initrd --name initrd-netboot ${joist-url}/initrd-netboot || goto failed
boot || goto failed

:old
echo This iPXE does not say where the script came from: set joist-url first.
:failed
echo Joist did not start. Ctrl-B gives a prompt of iPXE.
shell
`

// IPXE is boot.ipxe.
func (s Spec) IPXE() ([]byte, error) { return s.render("boot.ipxe", ipxeText) }

// GRUB keeps in cmdpath the folder its image came from: (tftp,192.0.2.1)/joist
// or (http,192.0.2.1:8080)/joist; without one its root is (pxe) or the like, and
// net_default_server the server. Stage 1 speaks HTTP; GRUB also takes kernel and
// initrd by it, since its TFTP waits for the answer to each packet.
const grubText = `# Joist <<.Version>>, build <<.BuildID>>. The other files lie beside GRUB.
# set joist_url=http://192.0.2.1/joist
# Without that line the folder of GRUB itself is asked for by HTTP.
# set joist_answer=auto
# With that line nobody is asked.
set joist_from=$cmdpath
if [ -z "$joist_from" ]; then
  set joist_from=($root)
fi
regexp --set=1:joist_server --set=2:joist_folder '^\([a-z]+,([^)]+)\)(.*)$' "$joist_from"
if [ -z "$joist_server" ]; then
  set joist_server=$net_default_server
fi
if [ -z "$joist_url" ]; then
  set joist_url=http://$joist_server$joist_folder
fi
if regexp --set=1:joist_server --set=2:joist_folder '^http://([^/]+)(.*)$' "$joist_url"; then
  set joist_from=(http,$joist_server)$joist_folder
fi
<<.Serial>>set default=install
set timeout=10
if [ -n "$joist_answer" ]; then
  set default=unattended
else
  set joist_answer=auto
fi

menuentry "Install Joist <<.Version>>" --id install {
  linux $joist_from/vmlinuz joist.mode=install joist.image=$joist_url/system.sqfs BOOTIF=$net_default_mac <<.Args>>
  initrd $joist_from/initrd-netboot
}
menuentry "Install Joist <<.Version>> unattended" --id unattended {
  linux $joist_from/vmlinuz joist.mode=install joist.answer=$joist_answer joist.image=$joist_url/system.sqfs BOOTIF=$net_default_mac <<.Args>>
  initrd $joist_from/initrd-netboot
}
menuentry "Rescue" --id rescue {
  linux $joist_from/vmlinuz joist.mode=rescue joist.rescue=mount joist.image=$joist_url/system.sqfs BOOTIF=$net_default_mac <<.Args>>
  initrd $joist_from/initrd-netboot
}
`

// Grub is grub.cfg.
func (s Spec) Grub() ([]byte, error) { return s.render("grub.cfg", grubText) }
