package query

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"

	"sekisho/audit"
)

// TimeLayout is how times are printed: with their offset, so that a table can
// be sent to somebody in another zone.
const TimeLayout = "2006-01-02 15:04:05Z07:00"

// Printable makes text of unknown origin harmless in a terminal: what cannot be
// seen, or changes how other text is seen, is escaped as in the log.
func Printable(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	return escape(s, "")
}

// word is for a cell of a table: what could look like two is quoted.
func word(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	switch {
	case s == "":
		return "-"
	case s == "-" || strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || strings.ContainsRune(` "\→`, r) }) >= 0:
		return `"` + escape(s, `"\`) + `"`
	}
	return s
}

// escape writes what is not printable as \uXXXX, and a backslash before what is
// special.
func escape(s, special string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case strings.ContainsRune(special, r):
			b.WriteRune('\\')
			b.WriteRune(r)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			writeEscaped(&b, r)
		}
	}
	return b.String()
}

// writeEscaped writes a rune as JSON escapes it (RFC 8259, section 7).
func writeEscaped(w io.Writer, r rune) {
	if r > 0xffff {
		hi, lo := utf16.EncodeRune(r)
		fmt.Fprintf(w, `\u%04x\u%04x`, hi, lo)
		return
	}
	fmt.Fprintf(w, `\u%04x`, r)
}

// WriteJSON writes v as indented JSON that is harmless in a terminal:
// encoding/json escapes what JSON demands, and leaves C1 controls, what turns
// the direction of text, and what has no width.
func WriteJSON(w io.Writer, v any) error {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	for _, r := range text.String() {
		// Outside of strings there is nothing of the kind but the ends of lines,
		// and within they are escaped.
		if r == '\n' || unicode.IsPrint(r) {
			out.WriteRune(r)
		} else {
			writeEscaped(out, r)
		}
	}
	return out.Flush()
}

// size writes a number of bytes for people.
func size(n uint64) string {
	if n < 1<<10 {
		return strconv.FormatUint(n, 10) + " B"
	}
	f, unit := float64(n), 0
	for f >= 1023.95 && unit < 6 {
		f, unit = f/1024, unit+1
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " " + "KMGTPE"[unit-1:unit] + "iB"
}

// lasted writes how long something took, as short as it still says it.
func lasted(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	s := d.Round(time.Second).String()
	if d >= 48*time.Hour {
		days := d.Round(time.Second) / (24 * time.Hour)
		s = fmt.Sprintf("%dd%s", days, (d.Round(time.Second) - days*24*time.Hour).String())
	}
	return s
}

// count writes a number of things.
func count[N int | uint64](n N, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// who names the principal, and the login name if it is another.
func who(r *audit.Record) string {
	switch {
	case r.Entrance == "admin":
		return word(r.Login)
	case r.Login == "" || r.Login == r.User:
		return word(r.User)
	case r.User == "":
		return "(" + word(r.Login) + ")"
	}
	return word(r.User) + " (" + word(r.Login) + ")"
}

// why joins what a record says of itself in words.
func why(r *audit.Record) string {
	var parts []string
	for _, s := range []string{r.Reason, r.Request, r.Detail} {
		if s != "" {
			parts = append(parts, Printable(s))
		}
	}
	for _, d := range r.Dropped {
		ip := "?"
		if d.Addr.IsValid() {
			ip = d.Addr.String()
		}
		parts = append(parts, "not "+ip+" ("+Printable(d.Reason)+")")
	}
	return strings.Join(parts, ": ")
}

// way names the target and the address that was dialled for it.
func way(r *audit.Record) string {
	target, address := "", ""
	if r.Target != (audit.Endpoint{}) {
		target = word(hostPort(r.Target))
	}
	if r.Address.Addr().IsValid() {
		address = r.Address.String()
	}
	switch {
	case address == "" || address == target:
		return target
	case target == "":
		return "→ " + address
	}
	return target + " → " + address
}
