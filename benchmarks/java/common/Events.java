import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;

/** Reads Avro values in Confluent wire format and writes them as JSON; safe to use from several threads. */
final class Events {
  private static final int HEAD = 5;
  private final JsonFactory json = new JsonFactory();
  private final Schema schema;
  private final ThreadLocal<GenericDatumReader<GenericRecord>> readers;
  private final ThreadLocal<BinaryDecoder> decoders = new ThreadLocal<>();

  Events(Path file) throws IOException {
    schema = new Schema.Parser().parse(Files.readString(file));
    readers = ThreadLocal.withInitial(() -> new GenericDatumReader<>(schema));
  }

  byte[] bodyOf(byte[] value) {
    try {
      BinaryDecoder decoder =
          DecoderFactory.get().binaryDecoder(value, HEAD, value.length - HEAD, decoders.get());
      decoders.set(decoder);
      GenericRecord event = readers.get().read(null, decoder);
      ByteArrayOutputStream out = new ByteArrayOutputStream(256);
      try (JsonGenerator to = json.createGenerator(out)) {
        to.writeStartObject();
        for (Schema.Field field : schema.getFields()) {
          to.writeFieldName(field.name());
          write(to, event.get(field.pos()));
        }
        to.writeEndObject();
      }
      return out.toByteArray();
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  private static void write(JsonGenerator to, Object value) throws IOException {
    if (value == null) {
      to.writeNull();
    } else if (value instanceof Integer number) {
      to.writeNumber(number);
    } else if (value instanceof Long number) {
      to.writeNumber(number);
    } else if (value instanceof Double number) {
      to.writeNumber(number);
    } else if (value instanceof Map<?, ?> map) {
      to.writeStartObject();
      for (Map.Entry<?, ?> entry : map.entrySet()) {
        to.writeFieldName(entry.getKey().toString());
        write(to, entry.getValue());
      }
      to.writeEndObject();
    } else {
      to.writeString(value.toString());
    }
  }
}
