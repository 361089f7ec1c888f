package guest

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"joist/api/drive"
	"joist/api/guest/property"
	"joist/api/net"
	"joist/api/schema"
)

// Check validates the value of a key and returns it in the form in which it is
// kept: booleans as 1 or 0, property strings in order. The error's text is
// what the API answers for the parameter.
func Check(kind Kind, key, value string) (string, error) {
	o, ok := Lookup(kind, key)
	if !ok {
		return "", fmt.Errorf("property is not defined in schema and the schema does not allow additional properties")
	}
	limit := o.Max
	if limit == 0 {
		limit = 8192
	}
	if len(value) > limit {
		return "", fmt.Errorf("value may only be %d characters long", limit)
	}
	if key != "description" && strings.ContainsAny(value, "\n\r\x00") {
		return "", fmt.Errorf("invalid format - value has more than one line")
	}
	switch o.Type {
	case schema.Boolean:
		b, err := property.Bool(value)
		return property.FormatBool(b), err
	case schema.Integer:
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return "", fmt.Errorf("type check ('integer') failed - got '%s'", value)
		}
		return strconv.FormatInt(n, 10), o.inRange(float64(n))
	case schema.Number:
		if !numberRE.MatchString(value) {
			return "", fmt.Errorf("type check ('number') failed - got '%s'", value)
		}
		f, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return "", fmt.Errorf("type check ('number') failed - got '%s'", value)
		}
		return value, o.inRange(f)
	}
	if o.Enum != nil && !slices.Contains(o.Enum, value) {
		return "", fmt.Errorf("value '%s' does not have a value in the enumeration '%s'", value, strings.Join(o.Enum, ", "))
	}
	if o.check != nil {
		return o.check(value)
	}
	return value, nil
}

var numberRE = regexp.MustCompile(`^[0-9]{1,9}(\.[0-9]{1,9})?$`)

func (o Option) inRange(f float64) error {
	switch {
	case o.Hi <= o.Lo:
		return nil
	case f < o.Lo:
		return fmt.Errorf("value must have a minimum value of %g", o.Lo)
	case f > o.Hi:
		return fmt.Errorf("value must have a maximum value of %g", o.Hi)
	}
	return nil
}

func checkDrive(s string) (string, error) {
	d, err := drive.Parse(s)
	return d.String(), err
}

func checkMount(key string) func(string) (string, error) {
	return func(s string) (string, error) {
		m, err := drive.ParseMount(key, s)
		if err != nil {
			return "", err
		}
		return m.String(), nil
	}
}

func checkNet(s string) (string, error) {
	n, err := net.Parse(s)
	return n.String(), err
}

func checkLXCNet(s string) (string, error) {
	n, err := net.ParseLXC(s)
	if err != nil {
		return "", err
	}
	return n.String(), nil
}

// props checks a property string against a list of its keys.
func props(def string, keys []string) func(string) (string, error) {
	return func(s string) (string, error) {
		set, err := property.Parse(s, def)
		if err == nil {
			err = set.Only(keys...)
		}
		if err != nil {
			return "", err
		}
		return set.Format(def), nil
	}
}

var (
	agentKeys   = []string{"enabled", "freeze-fs", "freeze-fs-on-backup", "fstrim_cloned_disks", "guest-fsfreeze", "type"}
	featureKeys = []string{"force_rw_sys", "fuse", "keyctl", "mknod", "mount", "nesting"}
)

var dnsRE = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$`)

func checkName(s string) (string, error) {
	if !dnsRE.MatchString(s) {
		return "", fmt.Errorf("invalid format - value does not look like a valid DNS name")
	}
	return s, nil
}

var tagRE = regexp.MustCompile(`^[a-z0-9_][a-z0-9_+.-]*$`)

// checkTags returns the tags lower case, sorted, once each, joined with ";".
func checkTags(s string) (string, error) {
	tags := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return strings.ContainsRune(",; \t", r) })
	for _, t := range tags {
		if !tagRE.MatchString(t) {
			return "", fmt.Errorf("invalid format - invalid characters in tag '%s'", t)
		}
	}
	slices.Sort(tags)
	return strings.Join(slices.Compact(tags), ";"), nil
}

func checkMemory(s string) (string, error) {
	_, err := Memory(s)
	return s, err
}

func checkMachine(s string) (string, error) {
	_, err := ParseMachine(s)
	return s, err
}

func checkBoot(s string) (string, error) {
	_, err := BootOrder(s)
	return s, err
}

func checkStartup(s string) (string, error) {
	_, err := ParseStartup(s)
	if err != nil {
		return "", err
	}
	set, err := property.Parse(s, "order")
	if v, ok := set["order"]; ok { // written with its name, as the field does
		delete(set, "order")
		return strings.TrimSuffix("order="+v+","+set.Format(""), ","), err
	}
	return set.Format(""), err
}

func checkVGA(s string) (string, error) {
	_, err := ParseVGA(s)
	if err != nil {
		return "", err
	}
	set, _ := property.Parse(s, "type")
	return set.Format("type"), nil
}

func checkCPU(s string) (string, error) {
	if _, err := ParseCPU(s); err != nil {
		return "", err
	}
	set, err := property.Parse(s, "cputype")
	return set.Format("cputype"), err
}

func checkSMBIOS(s string) (string, error) {
	_, err := ParseSMBIOS(s)
	return s, err
}

func checkSerial(s string) (string, error) {
	if s != "socket" && !serialDevRE.MatchString(s) {
		return "", fmt.Errorf("value does not match the regex pattern")
	}
	return s, nil
}

var serialDevRE = regexp.MustCompile(`^/dev/[A-Za-z0-9/_.-]{1,60}$`)

func checkGenID(s string) (string, error) {
	if s != "0" && s != "1" && !uuidRE.MatchString(s) {
		return "", fmt.Errorf("value does not match the regex pattern")
	}
	return s, nil
}

func checkStartdate(s string) (string, error) {
	if s == "now" {
		return s, nil
	}
	for _, layout := range []string{"2006-01-02T15:04:05", time.DateOnly} {
		if _, err := time.Parse(layout, s); err == nil {
			return s, nil
		}
	}
	return "", fmt.Errorf("value does not match the regex pattern")
}
