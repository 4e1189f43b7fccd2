package bastion

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"slices"
)

const msgKexInit = 20 // SSH_MSG_KEXINIT, RFC 4250 section 4.1.2

// A kexInit is what is kept of a client's first KEXINIT (RFC 4253 section 7.1).
type kexInit struct {
	// hassh tells clients apart by what they offer: the MD5, in hex, of
	//
	//	key exchanges ; ciphers ; MACs ; compressions
	//
	// of the direction to the server, as the client has sent them. It is known
	// to many tools by this name. It is an identifier and proves nothing: anybody
	// can send the lists of any client, and that MD5 is broken takes nothing
	// away from it.
	hassh string

	// gcm says that the client offers AES-GCM both ways, and that the full list
	// of ciphers would have led to a cipher and a MAC too. See gcmCiphers.
	gcm bool
}

// Places of the name-lists in a KEXINIT.
const (
	listKeyExchange = iota
	listHostKey
	listCipherUp // from the client to the server
	listCipherDown
	listMACUp
	listMACDown
	listCompressionUp
	listCompressionDown
	listLanguageUp
	listLanguageDown
	lists
)

// parseKexInit reads the payload of a packet. It returns nil for one that is
// not exactly a KEXINIT.
func parseKexInit(payload []byte) *kexInit {
	const cookie, end = 16, 5 // bytes; at the end first_kex_packet_follows and a reserved number
	if len(payload) < 1+cookie || payload[0] != msgKexInit {
		return nil
	}
	rest := payload[1+cookie:]
	var names [lists][]byte
	for i := range names {
		if len(rest) < 4 {
			return nil
		}
		n := binary.BigEndian.Uint32(rest)
		if rest = rest[4:]; uint64(n) > uint64(len(rest)) {
			return nil
		}
		names[i], rest = rest[:n], rest[n:]
	}
	if len(rest) != end {
		return nil
	}
	return &kexInit{
		hassh: hassh(names[listKeyExchange], names[listCipherUp], names[listMACUp], names[listCompressionUp]),
		gcm:   takesGCM(names[listCipherUp], names[listMACUp]) && takesGCM(names[listCipherDown], names[listMACDown]),
	}
}

func hassh(names ...[]byte) string {
	sum := md5.Sum(bytes.Join(names, []byte(";")))
	return hex.EncodeToString(sum[:])
}

// takesGCM reports whether AES-GCM is among a client's ciphers of one
// direction. A client that by the full list would get a cipher that needs a MAC,
// and has none in common with the server, is left to that list: a choice made
// here is to let nobody in who is not let in without it.
func takesGCM(ciphersOffered, macsOffered []byte) bool {
	if agreed(ciphersOffered, gcmCiphers) == "" {
		return false
	}
	cipher := agreed(ciphersOffered, ciphers)
	return slices.Contains(aeadCiphers, cipher) || agreed(macsOffered, macs) != ""
}

// agreed is the first name of a client's list that is also in ours, or "".
func agreed(theirs []byte, ours []string) string {
	for name := range bytes.SplitSeq(theirs, []byte(",")) {
		if i := slices.Index(ours, string(name)); i >= 0 {
			return ours[i]
		}
	}
	return ""
}
