package drive

import (
	"path"
	"regexp"
	"strings"

	"joist/api/guest/property"
)

// Mount is the value of rootfs or mp0 … mp255.
type Mount struct {
	Volume   string // volume id; in requests what ParseRequest takes apart
	Path     string // mp: where it is mounted in the container, "" for rootfs
	Size     int64  // bytes
	ReadOnly bool
	Rest     property.Set // acl, backup, mountoptions, quota, replicate, shared, keepattrs, idmap
}

var mountRest = map[string]bool{"acl": true, "backup": false, "mountoptions": true, "quota": true, "replicate": false,
	"shared": false, "keepattrs": true, "idmap": true}

var mpRE = regexp.MustCompile(`^mp(0|[1-9][0-9]{0,2})$`)

// IsMount reports whether key is rootfs or mp0 … mp255.
func IsMount(key string) bool {
	m := mpRE.FindStringSubmatch(key)
	return key == "rootfs" || m != nil && (len(m[1]) < 3 || m[1] <= "255")
}

// ParseMount reads the value of key.
func ParseMount(key, s string) (Mount, error) {
	set, err := property.Parse(s, "volume")
	if err != nil {
		return Mount{}, err
	}
	m := Mount{Rest: property.Set{}}
	if err := set.Each(func(k, v string) error { return m.set(key, k, v, set) }); err != nil {
		return Mount{}, err
	}
	if !volumeRE.MatchString(m.Volume) || strings.HasPrefix(m.Volume, "-") {
		return Mount{}, property.Invalid("volume", "unable to parse volume ID '%s'", m.Volume)
	}
	if key != "rootfs" {
		if !path.IsAbs(m.Path) || path.Clean(m.Path) != strings.TrimSuffix(m.Path, "/") {
			return Mount{}, property.Invalid("mp", "'%s' is not an absolute path without '..'", m.Path)
		}
	}
	return m, nil
}

func (m *Mount) set(key, k, v string, all property.Set) (err error) {
	switch {
	case k == "volume":
		m.Volume = v
	case k == "mp" && key != "rootfs":
		m.Path = v
	case k == "size":
		if m.Size, err = property.ParseSize(v); err != nil {
			err = property.Invalid(k, "%w", err)
		}
	case k == "ro":
		m.ReadOnly, err = all.Flag(k, m.Rest)
	default:
		if _, ok := mountRest[k]; !ok {
			return property.Unknown(k)
		}
		m.Rest[k] = v
	}
	return err
}

// String is the mount as a configuration holds it.
func (m Mount) String() string {
	s := m.Rest.Clone()
	s["volume"] = m.Volume
	if m.Path != "" {
		s["mp"] = m.Path
	}
	if m.Size > 0 {
		s["size"] = property.FormatSize(m.Size)
	}
	if m.ReadOnly {
		s["ro"] = "1"
	}
	return s.Format("volume")
}

// Unsupported names the properties that are kept without effect.
func (m Mount) Unsupported() []string {
	var out []string
	for k, v := range m.Rest {
		if mountRest[k] && v != "0" {
			out = append(out, k)
		}
	}
	if strings.HasPrefix(m.Volume, "/") {
		out = append(out, "bind mount of a path of the host")
	}
	return out
}
