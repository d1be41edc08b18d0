//! What bytes a token stands for.

/// How a vocabulary spells bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// GPT-2's alphabet: one printable character for each byte.
    ByteLevel,
    /// SentencePiece: `▁` is a space, `<0xNN>` a byte, anything else itself.
    SentencePiece,
}

impl Spelling {
    pub(crate) fn bytes(self, piece: &str) -> Vec<u8> {
        match self {
            // A piece outside the alphabet was put into the vocabulary as plain text.
            Spelling::ByteLevel => piece
                .chars()
                .map(alphabet_byte)
                .collect::<Option<Vec<u8>>>()
                .unwrap_or_else(|| piece.as_bytes().to_vec()),
            Spelling::SentencePiece => match byte_piece(piece) {
                Some(byte) => vec![byte],
                None => piece.replace('▁', " ").into_bytes(),
            },
        }
    }
}

/// GPT-2 gives printable Latin-1 to itself and numbers the other 68 bytes from U+0100 on.
pub(crate) fn alphabet_char(byte: u8) -> char {
    let shown = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if shown(byte) {
        char::from(byte)
    } else {
        let rank = (0..byte).filter(|&b| !shown(b)).count() as u32;
        char::from_u32(0x100 + rank).expect("U+0100 and the next 67 are characters")
    }
}

/// One more than the last character of the alphabet.
const ALPHABET_END: usize = 0x144;

fn alphabet_byte(c: char) -> Option<u8> {
    static INVERSE: std::sync::LazyLock<[Option<u8>; ALPHABET_END]> =
        std::sync::LazyLock::new(|| {
            let mut inverse = [None; ALPHABET_END];
            for byte in 0..=255 {
                inverse[alphabet_char(byte) as usize] = Some(byte);
            }
            inverse
        });
    INVERSE.get(c as usize).copied().flatten()
}

fn byte_piece(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 {
        u8::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

/// The bytes of every token, back to back.
pub(crate) struct TokenBytes {
    bytes: Vec<u8>,
    /// Token `i` ends at `ends[i]` and begins where the one before ends.
    ends: Vec<usize>,
}

impl TokenBytes {
    pub(crate) fn new(tokens: impl Iterator<Item = Vec<u8>>) -> TokenBytes {
        let mut all = TokenBytes {
            bytes: Vec::new(),
            ends: Vec::new(),
        };
        for token in tokens {
            all.bytes.extend_from_slice(&token);
            all.ends.push(all.bytes.len());
        }
        all
    }

    /// Empty for ids beyond the vocabulary.
    pub(crate) fn of(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else {
            return &[];
        };
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..end]
    }
}
