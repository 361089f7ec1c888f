package guest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"joist/api/drive"
	"joist/api/net"
)

// Unsupported returns one sentence for each thing that a configuration asks
// for and this node keeps without doing it. The controller warns with them.
func Unsupported(kind Kind, config map[string]string) []string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(config)) {
		value := config[key]
		o, ok := Lookup(kind, key)
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("option '%s' is unknown", key))
		case o.Plain == "-", o.Plain != "" && o.Plain != "*" && o.Plain != value:
			out = append(out, fmt.Sprintf("option '%s' is kept, but has no effect on this node", key))
		default:
			if parts := inside(kind, key, value); len(parts) > 0 {
				slices.Sort(parts)
				out = append(out, fmt.Sprintf("option '%s': no effect on this node: %s", key, strings.Join(parts, ", ")))
			}
		}
	}
	return out
}

// inside names the properties of one value that have no effect.
func inside(kind Kind, key, value string) []string {
	if _, _, ok := drive.ParseKey(key); ok && kind == QEMU {
		if d, err := drive.Parse(value); err == nil {
			return d.Unsupported()
		}
	}
	if drive.IsMount(key) && kind == LXC {
		if m, err := drive.ParseMount(key, value); err == nil {
			return m.Unsupported()
		}
	}
	if strings.HasPrefix(key, "net") {
		return insideNet(kind, value)
	}
	if kind != QEMU {
		return nil
	}
	switch key {
	case "cpu":
		if c, err := ParseCPU(value); err == nil {
			return slices.Collect(maps.Keys(c.Rest))
		}
	case "machine":
		if m, err := ParseMachine(value); err == nil {
			return slices.Collect(maps.Keys(m.Rest))
		}
	case "vga":
		if v, err := ParseVGA(value); err == nil && (strings.HasPrefix(v.Type, "qxl") || v.Type == "virtio-gl") {
			return []string{v.Type + " (std is used)"}
		}
	}
	return nil
}

func insideNet(kind Kind, value string) []string {
	if kind == LXC {
		if n, err := net.ParseLXC(value); err == nil {
			return n.Unsupported()
		}
		return nil
	}
	if n, err := net.Parse(value); err == nil {
		return n.Unsupported()
	}
	return nil
}
